"""Recipes of sentence-transformers that `quality.py` and `race.py` compare with."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.losses import MultipleNegativesRankingLoss
from sentence_transformers.training_args import BatchSamplers
from sentence_transformers.util import mine_hard_negatives

import nightshift as ns
from tasks.core.base.files import digest_of
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import Settings
from tasks.core.encoder.base_model import find_base
from tasks.core.encoder.hardware import has_bf16
from tasks.core.text.normalization import full_text

DEFAULTS = TrainingSettings()


class Peer:
    """A recipe of sentence-transformers for one collection and seed.

    recipe: `mnrl` (MultipleNegativesRankingLoss on pairs) or `mined` (in addition a negative of mine_hard_negatives
        with a relative margin of 0.05).
    tokens: token limit of a text.
    dropout: dropout of the transformer; None: as in the model's config.
    """

    def __init__(
        self, collection: ns.Collection, recipe: str, tokens: int, seed: int, dropout: float | None = None
    ) -> None:
        self.collection, self.recipe, self.tokens, self.seed, self.dropout = collection, recipe, tokens, seed, dropout

    @cached_property
    def pairs(self) -> Dataset:
        """The training pairs; mines negatives if the recipe does."""
        train = self.collection.qrels("train")
        texts = {row["passage_id"]: full_text(row["title"], row["text"]) for row in self.collection.passages()}
        queries = {row["query_id"]: row["text"] for row in self.collection.queries("train").to_pylist()}
        pairs = Dataset.from_dict(
            {
                "anchor": [queries[query] for query in train["query_id"].to_pylist()],
                "positive": [texts[passage] for passage in train["passage_id"].to_pylist()],
            }
        )
        if self.recipe == "mnrl":
            return pairs
        corpus = list(texts.values())
        return mine_hard_negatives(
            pairs, self._base(), corpus=corpus, relative_margin=0.05, num_negatives=1, verbose=False
        )

    def train(self, steps: int, batch_size: int, learning_rate: float) -> Path:
        """Train the base model; return the folder of the trained model."""
        key = [self.recipe, self.collection.snapshot.digest, self.tokens, self.dropout, steps, batch_size]
        folder = self.collection.home / "sentence-transformers" / digest_of([*key, learning_rate, self.seed])
        if (folder / "modules.json").exists():
            return folder
        model = self._base()
        if self.dropout is not None:
            for module in model.modules():
                if isinstance(module, torch.nn.Dropout):
                    module.p = self.dropout
        arguments = SentenceTransformerTrainingArguments(
            output_dir=str(folder),
            max_steps=steps,
            per_device_train_batch_size=batch_size,
            learning_rate=learning_rate,
            warmup_steps=round(DEFAULTS.warmup * steps),
            weight_decay=DEFAULTS.weight_decay,
            max_grad_norm=DEFAULTS.max_grad_norm,
            use_cpu=not torch.cuda.is_available(),
            bf16=has_bf16(),
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            seed=self.seed,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        SentenceTransformerTrainer(model, arguments, self.pairs, loss=MultipleNegativesRankingLoss(model)).train()
        model.save_pretrained(str(folder))
        return folder

    def merge_with_base(self, folder: Path) -> Path:
        """Average the weights of a trained model with those of the base model; return the folder of the result."""
        merged = folder.with_name(f"{folder.name}-merged")
        if not (merged / "modules.json").exists():
            model, base = SentenceTransformer(str(folder), local_files_only=True), self._base().state_dict()
            averages = {
                name: (value + base[name]) / 2 if value.is_floating_point() else value
                for name, value in model.state_dict().items()
            }
            model.load_state_dict(averages)
            model.save_pretrained(str(merged))
        return merged

    def encoder(self, folder: Path) -> ns.Encoder:
        """Load a trained model as a base model of Nightshift, to measure it in the same way."""
        return ns.load_encoder(self.collection, folder, passage_tokens=self.tokens)

    def _base(self) -> SentenceTransformer:
        model = SentenceTransformer(str(find_base(Settings().encoder.model)), local_files_only=True)
        model.max_seq_length = self.tokens
        return model
