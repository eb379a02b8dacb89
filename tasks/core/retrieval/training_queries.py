"""Search for the training queries with the encoder. Their vectors are computed once, for all shards and for mining."""

from __future__ import annotations

import os
from contextlib import suppress
from functools import cache
from pathlib import Path

import numpy as np

from tasks.core.base.receipts import Embeddings, Encoder, Run, Snapshot
from tasks.core.encoder.loading import load_encoder
from tasks.core.retrieval.dense import dense_search
from tasks.core.retrieval.runs import LazyVectors, vectors_of
from tasks.core.retrieval.searches import Search, find_run, join_shards, search_whole
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.snapshot.splits import Split

VECTORS = "queries.npy"


def training_search(
    home: Path,
    snapshot: Snapshot,
    encoder: Encoder,
    embeddings: Embeddings,
    depth: int,
    *,
    pairs: int = 0,
    mapped: bool = False,
) -> tuple[Search, LazyVectors]:
    """Prepare the exact search of the training queries, with lazy vectors.

    The vectors come from the file that `keep_vectors` saved for shards; otherwise they are computed when needed.

    pairs: training pairs that are needed, see `drawn_queries`; 0: all.
    mapped: memory-map that file, so that a shard reads only its part.

    Returns the search and the vectors.
    """
    train_queries = drawn_queries(snapshot, pairs).queries

    @cache
    def load_or_encode() -> np.ndarray:
        kept = search.folder / VECTORS
        with suppress(FileNotFoundError, ValueError, EOFError):  # the file is missing or truncated
            vectors: np.ndarray = np.load(kept, mmap_mode="r" if mapped else None)
            return vectors
        return load_encoder(encoder.path).encode_queries(train_queries["text"].to_pylist())

    lazy_vectors = LazyVectors(encoder.fingerprint, load_or_encode)
    search = dense_search(home, Split.TRAIN, train_queries, lazy_vectors, embeddings, depth)
    return search, lazy_vectors


def keep_vectors(search: Search, vectors: LazyVectors) -> int:
    """Compute the vectors, save them until the shards are joined, and return the number of queries.

    They are computed together on one host. Other batches or another machine could change their last bits, and with
    them the negatives.
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    temporary, kept = search.folder / f".{VECTORS}", search.folder / VECTORS
    if not kept.exists():
        with temporary.open("wb") as file:
            np.save(file, vectors_of(vectors))
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(kept)
    return len(search.queries)


def run_search(search: Search, vectors: LazyVectors, shards: int) -> Run:
    """Return the run of a `training_search`: searched in this process, or joined from its shards."""
    if shards == 1:
        return search_whole(search)
    if find_run(search) is None:
        vectors_of(vectors)  # load them before joining deletes the file, because mining needs them next
    return join_shards(search, shards)
