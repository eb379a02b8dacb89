"""Generate clustered vectors, like those of real texts, as rows of a Milvus collection."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.base.sections.indexes import build_params
from tasks.core.release.milvus.collection import METRIC
from tasks.core.release.publisher import Identity


def draw_vectors(count: int, dimension: int, clusters: int = 1000, directions: int = 24) -> np.ndarray:
    """Draw unit vectors in clusters, float32 (count, dimension)."""
    draw = np.random.default_rng(17)
    centres = draw.standard_normal((clusters, dimension)) / dimension**0.5
    local_directions = draw.standard_normal((clusters, directions, dimension)).astype(np.float32) / dimension**0.5
    frequency = 1 / np.arange(1, clusters + 1) ** 0.7
    cluster = draw.choice(clusters, count, p=frequency / frequency.sum())
    vectors = np.empty((count, dimension), np.float32)
    for number in range(clusters):
        rows = np.flatnonzero(cluster == number)
        spread = 0.8 * draw.standard_normal((len(rows), directions)) / directions**0.5
        noise = 0.2 * draw.standard_normal((len(rows), dimension)) / dimension**0.5
        vectors[rows] = centres[number] + spread @ local_directions[number] + noise
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def search_exactly(passages: np.ndarray, queries: np.ndarray, k: int) -> list[set[int]]:
    """Return the row numbers of the best `k` passages of each query."""
    score_blocks = [queries[first : first + 50] @ passages.T for first in range(0, len(queries), 50)]
    return [set(map(int, np.argpartition(-scores, k)[:k])) for block in score_blocks for scores in block]


def identity_of(index: str, passages: np.ndarray) -> Identity:
    """Name a new collection that no other run uses."""
    rows, dimension = passages.shape
    return Identity(
        release="bench",
        digest="bench",
        collection=f"bench_{uuid.uuid4().hex[:12]}",
        fingerprint="drawn",
        dimension=dimension,
        metric=METRIC,
        index=index,
        index_params=json.dumps(build_params(index, rows, dimension, {})),
        rows=rows,
        encoder="drawn",
        embeddings="drawn",
        snapshot="drawn",
    )


def batches(passages: np.ndarray, size: int = 1000) -> Iterator[pa.RecordBatch]:
    """Yield rows in the format of `rows.rows_with_vectors`, with texts of 400 bytes."""
    for first in range(0, len(passages), size):
        vectors = passages[first : first + size]
        ids = [f"p{number}" for number in range(first, first + len(vectors))]
        columns: dict[str, Any] = {
            "row": pa.array(np.arange(first, first + len(vectors))),
            "passage_id": pa.array(ids),
            "title": pa.array([f"entry {passage_id}" for passage_id in ids]),
            "text": pa.array([f"{passage_id:<8}" * 50 for passage_id in ids]),
            "text_hash": pa.array([f"{passage_id:>64}" for passage_id in ids]),
            "whole": pa.array([True] * len(vectors)),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1]),
        }
        yield pa.RecordBatch.from_pydict(columns)
