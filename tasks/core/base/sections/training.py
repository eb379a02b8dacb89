"""Settings of training: `[training]` in the settings file."""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, model_validator

from tasks.core.base.section import Section, Share

MAP_LEARNING_RATE = 5e-4
RATE_TIMES_WIDTH = 1e-4 * 384  # of a training whose learning rate is not set
LEAST_STEPS = 100  # of a training whose epochs are not set


class TrainingSettings(Section):
    """Contrastive training with in-batch and hard negatives."""

    loss: Literal["infonce", "triplet", "supcon", "margin_mse", "kl"] = Field(
        "infonce", description="loss function (formulas in training/losses); margin_mse and kl need [mining.teacher]"
    )
    temperature: float = Field(0.05, gt=0, description="divisor of scores in every loss except triplet")
    directions: tuple[Literal["query_to_passage", "passage_to_query", "query_to_query", "passage_to_passage"], ...] = (
        Field(("query_to_passage",), min_length=1, description="infonce only: pairs in the denominator")
    )
    margin: float = Field(
        0.2, gt=0, description="triplet only: required gap between negative and positive, in squared distance"
    )
    teacher_temperature: float = Field(
        1.0,
        gt=0,
        description="margin_mse and kl only: divisor of teacher scores; at 1 they have standard deviation 4 within a "
        "query",
    )
    contrastive_share: Share = Field(
        0.0, description="margin_mse and kl only: share of infonce in the loss; the rest is distillation"
    )
    minutes: float = Field(
        0.0,
        ge=0,
        description="budget of all training; chooses steps, rounds, start, learning rate, and negatives from a "
        "recorded pace and short trials, instead of epochs; 0: no budget",
    )
    epochs: float = Field(
        0.0,
        ge=0,
        description=f"passes over the training pairs; 0: one, or as many as {LEAST_STEPS} steps make of fewer pairs",
    )
    max_steps: int = Field(
        0, ge=0, description="maximum number of optimizer steps; only the queries that they use are mined; 0: no limit"
    )
    batch_size: int = Field(32, ge=2, description="queries per step, summed over all processes")
    hard_negatives: int = Field(1, ge=0, description="mined negatives per positive")
    more_positives: int = Field(0, ge=0, description="additional positives per query; supcon uses all as targets")
    replay: float = Field(
        0.0, ge=0, lt=1, description="fraction of a batch from pairs that only the serving release saw"
    )
    passage_tokens: int = Field(
        64,
        ge=0,
        description="maximum tokens of a passage in training, where half the tokens take half the time; "
        "0: as many as [encoder] passage_tokens",
    )
    learning_rate: float = Field(
        0.0,
        ge=0,
        description="peak learning rate of AdamW; 0: 1e-4 for a hidden size of 384, and less the wider the model is "
        "(5e-5 for 768)",
    )
    map_learning_rate: float = Field(
        MAP_LEARNING_RATE, gt=0, description='peak learning rate of the passage map, for [encoder] train = "query+map"'
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="fraction of steps with linear warm-up; then linear decay")
    weight_decay: float = Field(0.01, ge=0, description="AdamW weight decay; not applied to biases and norms")
    dropout: float = Field(0.0, ge=0, lt=1, description="dropout during training; 0 makes a CPU step twice as fast")
    max_grad_norm: float = Field(1.0, gt=0, description="maximum gradient norm; larger gradients are clipped")
    near_duplicate: float = Field(
        0.8, gt=0, le=1, description="Jaccard similarity of 5-word shingles from which a passage is masked like a copy"
    )
    evaluate_every: int = Field(100, ge=0, description="steps between evaluations of nDCG@10 on dev queries; 0: never")
    patience: int = Field(
        3, ge=1, description="stop after this number of evaluations in a row without a better nDCG@10"
    )
    dev_queries: int = Field(100, ge=1, description="dev queries per evaluation")
    dev_passages: int = Field(500, ge=10, description="passages to rank for dev queries: positives, top BM25, random")
    merge: Literal["none", "dev", "half"] = Field(
        "none",
        description="dev: keep an average with the weights of the start, base, or serving encoder, or of late steps, "
        "if it is better on dev queries than the trained weights; half: the mean of the start and the trained "
        "weights, without dev queries; none: keep the trained weights",
    )
    merge_queries: int = Field(
        300, ge=1, description="merge only: dev queries that choose the weights; the pool of passages grows with them"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 if the CPU or GPU supports it")
    memory_tokens: int = Field(
        16_384,
        ge=128,
        description="maximum tokens per process whose activations are in memory; larger batches use a gradient cache",
    )
    processes: int = Field(0, ge=0, description="processes that share each batch; 0: one per GPU, or one on a CPU")
    launcher: Literal["torchrun", "ray"] = Field(
        "torchrun", description="torchrun: processes on this host; ray: on the Ray cluster of [compute] (Ray Train)"
    )
    checkpoint_every: int = Field(
        25, ge=1, description="steps between checkpoints; a killed night resumes from the last"
    )
    seed: int = Field(0, description="random seed of batches and dropout")

    @property
    def pairs_used(self) -> int:
        """Training pairs that the steps of a round use; 0: all."""
        return math.ceil(self.max_steps * self.batch_size / min(1.0, self.epochs or 1.0))

    def rate_for(self, width: int) -> float:
        """Return the peak learning rate for a transformer with this hidden size.

        Under Adam, the best rate is inverse to the width: Yang et al., "Tensor Programs V" (2022).
        """
        return self.learning_rate or RATE_TIMES_WIDTH / width

    def cut(self, tokens: float) -> float:
        """Return how many of a passage's tokens training reads."""
        return min(tokens, self.passage_tokens or tokens)

    @property
    def distills(self) -> bool:
        """Whether the loss learns from a teacher."""
        return self.loss in ("margin_mse", "kl")

    @model_validator(mode="after")
    def _a_budget_needs_this_machine(self) -> TrainingSettings:
        if self.minutes and self.launcher == "ray":
            raise ValueError(
                '[training] minutes applies to launcher = "torchrun": the pace is measured on this machine'
            )
        return self

    def recipe(self) -> dict[str, Any]:
        """Return the settings that affect the trained weights, without those for speed and memory only.

        Settings with their default are left out if earlier versions did not have them: encoders keep their names.
        """
        later = {"map_learning_rate": MAP_LEARNING_RATE, "contrastive_share": 0.0, "minutes": 0.0, "passage_tokens": 0}
        unused = {name for name, default in later.items() if getattr(self, name) == default}
        unused |= {"merge", "merge_queries"} if self.merge == "none" else set()
        return self.model_dump(exclude={"memory_tokens", "processes", "launcher", "checkpoint_every"} | unused)
