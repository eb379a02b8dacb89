"""Compare two snapshots row by row, to build a generation from a copy of the serving one instead of from nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import match_passages, passages

MOST_CHANGED = 0.2  # share of new, changed, and deleted passages; with more, building from nothing costs as much
COLUMNS = ["title", "text_hash"]  # the hash is of title and text joined
NEW = -1


class NotCopied(NightshiftError):
    """A generation cannot be built from a copy of the earlier one; it is built from nothing instead."""


@dataclass(frozen=True)
class Delta:
    """What a generation has in common with an earlier one of the same passage encoder."""

    collection: str  # of the earlier generation
    earlier: np.ndarray  # int64 (rows,): the row of each passage in the earlier generation, or NEW
    same: np.ndarray  # bool (rows,): id, title, and text are those of the earlier generation
    deleted: list[str]  # ids that only the earlier generation has


def plan_delta(old: Snapshot, new: Snapshot, collection: str) -> Delta | None:
    """Compare the passages of two snapshots by id; return None when too many of them differ.

    Args:
        old: the snapshot of `collection`.
        new: the snapshot of the generation to build.
        collection: the earlier generation.
    """
    earlier, same = match_passages(old, new, COLUMNS)
    gone = np.ones(old.rows, bool)
    gone[earlier[earlier != NEW]] = False
    if np.count_nonzero(~same) + np.count_nonzero(gone) > MOST_CHANGED * old.rows:
        return None
    return Delta(collection, earlier, same, _ids(old, gone))


def _ids(snapshot: Snapshot, chosen: np.ndarray) -> list[str]:
    """Return the ids of chosen passages, bool (rows,)."""
    ids: list[str] = []
    first = 0
    for batch in passages(snapshot, columns=["passage_id"]):
        ids += batch["passage_id"].filter(pa.array(chosen[first : first + batch.num_rows])).to_pylist()
        first += batch.num_rows
    return ids
