"""Vectors in clusters, as those of texts lie, as rows of a Milvus collection."""

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


def drawn(count: int, dimension: int, clusters: int = 1000, own: int = 24) -> np.ndarray:
    """Unit vectors in clusters, float32 (count, dimension)."""
    draw = np.random.default_rng(17)
    centres = draw.standard_normal((clusters, dimension)) / dimension**0.5
    along = draw.standard_normal((clusters, own, dimension)).astype(np.float32) / dimension**0.5
    frequency = 1 / np.arange(1, clusters + 1) ** 0.7
    cluster = draw.choice(clusters, count, p=frequency / frequency.sum())
    made = np.empty((count, dimension), np.float32)
    for number in range(clusters):
        here = np.flatnonzero(cluster == number)
        spread = 0.8 * draw.standard_normal((len(here), own)) / own**0.5
        everywhere = 0.2 * draw.standard_normal((len(here), dimension)) / dimension**0.5
        made[here] = centres[number] + spread @ along[number] + everywhere
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True))


def exact(passages: np.ndarray, queries: np.ndarray, k: int) -> list[set[int]]:
    """The rows of the best `k` passages of each query."""
    blocks = [queries[first : first + 50] @ passages.T for first in range(0, len(queries), 50)]
    return [set(map(int, np.argpartition(-scores, k)[:k])) for block in blocks for scores in block]


def identity_of(index: str, passages: np.ndarray) -> Identity:
    """A collection that nobody else has."""
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
    """Rows as `rows.paired` gives them, with texts of 400 bytes."""
    for first in range(0, len(passages), size):
        part = passages[first : first + size]
        names = [f"p{number}" for number in range(first, first + len(part))]
        columns: dict[str, Any] = {
            "row": pa.array(np.arange(first, first + len(part))),
            "passage_id": pa.array(names),
            "title": pa.array([f"entry {name}" for name in names]),
            "text": pa.array([f"{name:<8}" * 50 for name in names]),
            "text_hash": pa.array([f"{name:>64}" for name in names]),
            "whole": pa.array([True] * len(part)),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(part.ravel()), part.shape[1]),
        }
        yield pa.RecordBatch.from_pydict(columns)
