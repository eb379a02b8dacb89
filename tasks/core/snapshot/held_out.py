"""The held-out queries that a night measures: all of a split, or a fixed sample of a large one.

A mean over n queries has a standard error of at most 0.5 / √n, for any measure between 0 and 1: 0.011 for 2,000
queries. Exact search costs queries × passages, so without a sample it would grow with the square of a collection.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import judged, qrels
from tasks.core.text.normalization import uniform

SALT = "measured "  # before an id; makes the sample independent of the hashes that carve splits


class JudgedQueries(NamedTuple):
    """Judged queries (query_id, text) in order of id, and their positives, as from `qrels`."""

    queries: pa.Table
    qrels: pa.Table

    def take(self, rows: np.ndarray) -> JudgedQueries:
        """Return the queries in these rows, in order of id, with their qrels. rows: int64 (n,)."""
        kept = self.queries.take(pa.array(np.sort(rows)))
        return JudgedQueries(kept, self.qrels.filter(pc.is_in(self.qrels["query_id"], value_set=kept["query_id"])))


def held_out(snapshot: Snapshot, split: str, most: int = 0) -> JudgedQueries:
    """Return the judged queries of a split and their qrels: all, or the same sample of `most` queries every night.

    A query is in the sample if the hash of its id is among the lowest, so most of a sample stays as queries are added.

    Args:
        snapshot: The snapshot.
        split: Name of a split.
        most: Maximum number of queries; 0: no limit.

    Raises:
        BadInput: the split has no judged query.
    """
    everything = JudgedQueries(judged(snapshot, split), qrels(snapshot, split))
    if not is_sampled(snapshot, split, most):
        return everything
    places = np.array([uniform(SALT + name) for name in everything.queries["query_id"].to_pylist()])
    return everything.take(np.argsort(places, kind="stable")[:most])


def is_sampled(snapshot: Snapshot, split: str, most: int) -> bool:
    """Return whether a limit of `most` queries (0: none) leaves out queries of a split."""
    return 0 < most < snapshot.splits.get(split, 0)
