"""Vectors of queries from an encoder, encoded only when an artifact is missing."""

from __future__ import annotations

import pyarrow as pa

from tasks.core.base.receipts import Encoder
from tasks.core.encoder.loading import load_encoder
from tasks.core.retrieval.runs import LazyVectors


def encoder_vectors(encoder: Encoder, queries: pa.Table) -> LazyVectors:
    """Return the vectors of queries (query_id, text), encoded when they are needed."""
    return LazyVectors(
        encoder.fingerprint, lambda: load_encoder(encoder.path).encode_queries(queries["text"].to_pylist())
    )
