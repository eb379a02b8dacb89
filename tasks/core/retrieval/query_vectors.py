"""Vectors of queries from an encoder, encoded only when an artifact is missing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.core.base.receipts import Encoder
from tasks.core.encoder.loading import load_encoder
from tasks.core.retrieval.runs import LazyVectors, queries_digest

KEPT_QUERIES = 10_000  # whose vectors stay in memory until other queries are encoded
_last: dict[tuple[str, str, str], np.ndarray] = {}  # by folder and fingerprint of the encoder, and digest of queries


def encoder_vectors(encoder: Encoder, queries: pa.Table) -> LazyVectors:
    """Return the vectors of queries (query_id, text), encoded when they are needed.

    The vectors of the last queries are kept, because an evaluation measures a ranking and then its encoder alone.
    """
    return LazyVectors(encoder.fingerprint, lambda: _encode(encoder, queries))


def _encode(encoder: Encoder, queries: pa.Table) -> np.ndarray:
    key = (str(encoder.path), encoder.fingerprint, queries_digest(queries))
    vectors = _last.get(key)
    if vectors is None:
        vectors = load_encoder(encoder.path).encode_queries(queries["text"].to_pylist())
        _last.clear()
        if len(vectors) <= KEPT_QUERIES:
            _last[key] = vectors
    return vectors
