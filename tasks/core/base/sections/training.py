"""The dials of training: `[training]` in the settings file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from tasks.core.base.section import Section


class TrainingSettings(Section):
    """Contrastive training over in-batch and hard negatives."""

    loss: Literal["infonce", "triplet", "supcon", "margin_mse", "kl"] = Field(
        "infonce", description="formulas in training/losses; margin_mse and kl need negatives with teacher scores"
    )
    temperature: float = Field(0.05, gt=0, description="scores are divided by it, in every loss but triplet")
    directions: tuple[Literal["query_to_passage", "passage_to_query", "query_to_query", "passage_to_passage"], ...] = (
        Field(("query_to_passage",), min_length=1, description="infonce: which pairs are in the denominator")
    )
    margin: float = Field(0.2, gt=0, description="triplet: how much farther a negative must be, in squared distance")
    teacher_temperature: float = Field(1.0, gt=0, description="margin_mse, kl: teacher scores are divided by it")
    epochs: float = Field(1.0, gt=0, description="passes over the training pairs")
    max_steps: int = Field(0, ge=0, description="upper bound on optimizer steps; 0: none")
    batch_size: int = Field(32, ge=2, description="queries a step, over all processes")
    hard_negatives: int = Field(1, ge=0, description="mined negatives beside each positive")
    more_positives: int = Field(0, ge=0, description="further positives of a query beside its own; supcon pulls all")
    replay: float = Field(0.0, ge=0, lt=1, description="share of a batch from pairs that only the serving release saw")
    learning_rate: float = Field(5e-5, gt=0, description="peak learning rate of AdamW")
    warmup: float = Field(0.1, ge=0, lt=1, description="share of steps of linear warm-up; linear decay after")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay, not on biases and norms")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout while training; 0 makes a CPU step twice as fast")
    max_grad_norm: float = Field(1.0, gt=0, description="gradient clipping")
    near_duplicate: float = Field(0.8, gt=0, le=1, description="Jaccard of 5-word shingles: masked as a copy is")
    evaluate_every: int = Field(100, ge=0, description="steps between looks at dev nDCG@10; 0: never")
    patience: int = Field(3, ge=1, description="looks in a row without a better dev nDCG@10 that end the training")
    dev_queries: int = Field(100, ge=1, description="dev queries looked at")
    dev_passages: int = Field(500, ge=10, description="passages they are ranked over: answers, BM25's best, random")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the CPU or GPU has it")
    memory_tokens: int = Field(
        16_384,
        ge=128,
        description="tokens whose activations a process holds at once; a larger batch goes through a gradient cache",
    )
    processes: int = Field(0, ge=0, description="processes that share each batch; 0: one per GPU, one on a CPU")
    launcher: Literal["torchrun", "ray"] = Field(
        "torchrun", description="torchrun: processes on this host; ray: on the hosts of [compute]'s cluster (Ray Train)"
    )
    checkpoint_every: int = Field(25, ge=1, description="steps between checkpoints; a killed night goes on from one")
    seed: int = Field(0, description="seed of batches and dropout")

    def recipe(self) -> dict[str, Any]:
        """The dials that decide what is learned; the others decide how fast, and in how much memory."""
        return self.model_dump(exclude={"memory_tokens", "processes", "launcher", "checkpoint_every"})
