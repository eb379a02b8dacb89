"""The encoder's own search for the training queries; their vectors are made once, for all slices and for mining."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from tasks.core.base.receipts import Embeddings, Encoder, Run, Snapshot
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.retrieval.dense import dense_search
from tasks.core.retrieval.runs import LazyVectors, vectors_of
from tasks.core.retrieval.searches import Search, find_run, join_slices, search_whole
from tasks.core.snapshot.reader import judged

VECTORS = "queries.npy"


def training_search(
    home: Path, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, depth: int, *, mapped: bool = False
) -> tuple[Search, LazyVectors]:
    """The exact search of the training queries, and their vectors: those that were kept for slices, or made at need.

    With `mapped` those that were kept stay in their file, of which a slice reads its part.
    """
    asked = judged(snapshot, "train")

    @cache
    def made() -> np.ndarray:
        kept = search.folder / VECTORS
        with suppress(FileNotFoundError, ValueError, EOFError):  # it is not there, or was cut short
            vectors: np.ndarray = np.load(kept, mmap_mode="r" if mapped else None)
            return vectors
        return load_encoder(encoder.path).encode_queries(asked["text"].to_pylist())

    later = LazyVectors(encoder.fingerprint, made)
    search = dense_search(home, "train", asked, later, embeddings, depth)
    return search, later


def keep_vectors(search: Search, vectors: LazyVectors) -> int:
    """Make the vectors and keep them until the slices are joined; return how many they are.

    Made at once and on one host: in other batches, or by another machine, their last bits would be others, and the
    negatives with them.
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    aside, kept = search.folder / f".{VECTORS}", search.folder / VECTORS
    if not kept.exists():
        with aside.open("wb") as file:
            np.save(file, vectors_of(vectors))
            file.flush()
            os.fsync(file.fileno())
        aside.rename(kept)
    return len(search.queries)


def run_search(search: Search, vectors: LazyVectors, slices: int) -> Run:
    """The run of a `training_search`, in one piece or joined of its slices."""
    if slices == 1:
        return search_whole(search)
    if find_run(search) is None:
        vectors_of(vectors)  # joining removes what was kept, and mining asks for them next
    return join_slices(search, slices)
