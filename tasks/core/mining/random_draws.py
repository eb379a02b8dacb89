"""Draw random negatives, uniformly over all passages, with a random sequence for each query."""

from __future__ import annotations

import hashlib

import numpy as np

from tasks.core.mining.candidates import Candidates
from tasks.core.text.shingles import mix

_STEP = np.uint64(0x9E3779B97F4A7C15)


def draw_random_candidates(
    query_ids: list[str], first: int, count: int, passages: int, seed: object, source: int
) -> Candidates:
    """Draw `count` of `passages` snapshot rows for each query, uniformly and with replacement.

    The draws of a query depend only on `seed` and its id. `first` is the row of the first query. Ranks number the
    draws from 1; scores are NaN.
    """
    keys = [hashlib.sha256(f"{seed}\0{query_id}".encode()).digest()[:8] for query_id in query_ids]
    start = np.frombuffer(b"".join(keys), "<u8").astype(np.uint64)
    numbers = mix(start[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _STEP)
    size = numbers.size
    return Candidates(
        query=np.repeat(np.arange(first, first + len(query_ids)), count),
        passage=(numbers % np.uint64(max(passages, 1))).astype(np.int64).ravel(),
        source=np.full(size, source, np.int8),
        rank=np.tile(np.arange(1, count + 1, dtype=np.int32), len(query_ids)),
        score=np.full(size, np.nan, np.float32),
        dense=np.full(size, np.nan, np.float32),
    )
