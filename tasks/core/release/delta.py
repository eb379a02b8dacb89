"""Compare two snapshots row by row, to build a generation from a copy of the serving one instead of from nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import passages

MOST_CHANGED = 0.2  # share of new, changed, and deleted passages; with more, building from nothing costs as much
COLUMNS = ["passage_id", "title", "text_hash"]
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

    @property
    def changed(self) -> int:
        """Number of new, changed, and deleted passages."""
        return int((~self.same).sum()) + len(self.deleted)


def plan_delta(old: Snapshot, new: Snapshot, collection: str) -> Delta | None:
    """Compare the passages of two snapshots by id; return None when too many of them differ.

    Args:
        old: the snapshot of `collection`.
        new: the snapshot of the generation to build.
        collection: the earlier generation.
    """
    before, now = _read(old), _read(new)
    earlier = pc.index_in(now["passage_id"], value_set=before["passage_id"]).fill_null(NEW).to_numpy().astype(np.int64)
    kept = np.flatnonzero(earlier != NEW)
    same = np.zeros(len(earlier), bool)
    same[kept] = True
    for name in ("title", "text_hash"):
        equal = pc.equal(now[name].take(kept), before[name].take(earlier[kept]))
        same[kept] &= equal.to_numpy(zero_copy_only=False)
    gone = np.ones(old.rows, bool)
    gone[earlier[kept]] = False
    delta = Delta(collection, earlier, same, before["passage_id"].filter(pa.array(gone)).to_pylist())
    return delta if delta.changed <= MOST_CHANGED * old.rows else None


def _read(snapshot: Snapshot) -> dict[str, pa.Array]:
    """Read ids, titles (empty where there is none), and text hashes."""
    table = pa.Table.from_batches(list(passages(snapshot, columns=COLUMNS)))
    return {name: pc.fill_null(table[name].cast(pa.large_string()), "").combine_chunks() for name in COLUMNS}
