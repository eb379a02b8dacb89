"""Receipts of exact searches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tasks.core.base.receipts import Receipt


class DenseHits(Receipt):
    """The best passages of an encoder for the queries of an evaluation, in `hits.parquet`, for the next night.

    `vectors.u64` has a hash of the vector of each of `rows` passages.
    """

    shelf: ClassVar[str] = "hits"
    tables: ClassVar[Mapping[str, str]] = {"hits.parquet": "queries"}
    arrays: ClassVar[Mapping[str, int]] = {"vectors.u64": 8}

    fingerprint: str  # of the passage encoder
    queries: int
    depth: int
