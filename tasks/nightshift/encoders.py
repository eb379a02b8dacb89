"""Dual encoders: load a base model, train one on a collection and mined negatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nightshift.collection import Collection
from nightshift.negatives import Negatives
from nightshift.progress import progress_bars
from nightshift.retrieval import bm25_run
from nightshift.settings import settings_for
from tasks.core.base import receipts
from tasks.core.base.files import load
from tasks.core.base.settings import EncoderSettings
from tasks.core.snapshot.splits import Split


@dataclass(frozen=True)
class Encoder:
    """A query encoder and a passage encoder; `SentenceTransformer(str(encoder.path))` loads it as it is."""

    receipt: receipts.Encoder = field(repr=False)
    settings: EncoderSettings = field(repr=False)

    @property
    def path(self) -> Path:
        """The model folder: safetensors weights, tokenizer, sentence-transformers' files."""
        return self.receipt.path.absolute()

    @property
    def fingerprint(self) -> str:
        """The name of the vector space: weights, tokenizer, pooling, prompts, token limits, numeric path."""
        return self.receipt.fingerprint

    @property
    def dimension(self) -> int:
        """Numbers in a vector."""
        return self.receipt.dimension

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries, float32 (n, dimension)."""
        from tasks.core.encoder.dual_encoder import load_encoder as open_encoder

        return open_encoder(self.receipt.path).encode_queries(list(texts))

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Encode passages, float32 (n, dimension)."""
        from tasks.core.encoder.dual_encoder import load_encoder as open_encoder

        return open_encoder(self.receipt.path).encode_passages(list(texts))

    def __repr__(self) -> str:
        steps = f"{self.receipt.steps:,} training steps" if self.receipt.steps else "not trained"
        return f"Encoder({self.fingerprint}, {self.dimension} dimensions, {steps}, from {self.receipt.base})"


def load_encoder(collection: Collection, model: str | Path = "", **settings: Any) -> Encoder:
    """Load a base model as a dual encoder for `collection`.

    Args:
        collection: its texts decide which numeric path of this machine is close enough to fp32.
        model: a local folder or a hub id; empty: the default base model.
        **settings: any setting of `[encoder]`, such as `passage_tokens=256`.

    Raises:
        NightshiftError: the model does not exist or has no safetensors weights, or a setting is not valid.
    """
    from tasks.core.training.trainer import base_encoder

    chosen = {**settings, **({"model": str(model)} if model else {})}
    tree = settings_for(collection.home, encoder=chosen)
    receipt = base_encoder(collection.home, collection.snapshot, tree.encoder, tree.embedding)
    return Encoder(receipt, _as_made(receipt, tree.encoder))


def train(
    collection: Collection,
    negatives: Negatives,
    *,
    encoder: Encoder | str | Path | None = None,
    progress: bool = True,
    **settings: Any,
) -> Encoder:
    """Train a dual encoder contrastively on the training pairs of `collection` and mined negatives.

    Args:
        collection: training pairs; its dev queries stop the training early and choose the weights.
        negatives: of the same collection, from `mine_negatives`.
        encoder: what training starts from, an `Encoder`, a model folder or a hub id; None: the default base model.
        progress: show progress bars.
        **settings: any setting of `[training]`, such as `epochs=2, batch_size=64, loss="infonce"`.

    Raises:
        BadInput: the collection has no training pair.
        NightshiftError: a setting is not valid, or training failed.
    """
    from tasks.core.training.trainer import train as train_encoder

    start = as_encoder(encoder, collection)
    tree = settings_for(collection.home, training=settings, encoder=start.settings.model_dump())
    with progress_bars(progress):
        dev = None
        if tree.training.evaluate_every and Split.DEV in collection.splits:
            dev = bm25_run(collection, Split.DEV, tree.mining)
        trained = train_encoder(
            collection.home, start.receipt, collection.snapshot, negatives.receipt, tree, candidates=dev
        )
    return Encoder(trained, start.settings)


def as_encoder(encoder: Encoder | str | Path | None, collection: Collection) -> Encoder:
    """The encoder itself, or the base model that a name or a folder stands for."""
    return encoder if isinstance(encoder, Encoder) else load_encoder(collection, encoder or "")


def encoder_of_release(home: Path, digest: str, settings: EncoderSettings) -> Encoder:
    """The encoder of a release, by the digest of its artifact."""
    receipt = load(home, receipts.Encoder, digest)
    return Encoder(receipt, _as_made(receipt, settings))


def _as_made(receipt: receipts.Encoder, settings: EncoderSettings) -> EncoderSettings:
    """Return the settings with the values that the encoder was made with, such as the prompts of its base model."""
    from tasks.core.encoder.dual_encoder import read_spec

    return settings.model_copy(update=read_spec(receipt.path).model_dump(exclude={"precision"}))
