"""Finds an earlier snapshot with mostly the same passages, so what was made from it needs only the changes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from tasks.core.base.files import read_verified
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import unchanged_rows

MOST_CHANGED = 0.5  # share of passages; beyond it, nothing is taken over
TRIED = 3  # earlier snapshots to compare

T = TypeVar("T")


class Earlier(NamedTuple, Generic[T]):
    """What was made from an earlier snapshot, and where its passages are now."""

    made: T
    snapshot: Snapshot
    rows: np.ndarray  # int64 (earlier passages,): row in the new snapshot, ascending; -1: changed or removed


def find_earlier(home: Path, snapshot: Snapshot, made: Iterable[tuple[str, T]]) -> Earlier[T] | None:
    """Find the first earlier snapshot that has at least half of the passages of `snapshot`.

    Args:
        home: folder of the artifacts.
        snapshot: the passages of tonight.
        made: digests of earlier snapshots, and what was made from each. The first ones are compared.
    """
    tried = 0
    for digest, artifact in made:
        earlier = read_verified(home / Snapshot.shelf / digest, Snapshot)
        if earlier is None:
            continue
        rows = unchanged_rows(earlier, snapshot)
        if np.count_nonzero(rows >= 0) >= (1 - MOST_CHANGED) * snapshot.rows:
            return Earlier(artifact, earlier, rows)
        tried += 1
        if tried == TRIED:
            break
    return None


def new_rows(rows: np.ndarray, count: int) -> np.ndarray:
    """Return which of `count` passages are new or changed, bool (count,). rows: as in `Earlier`."""
    new = np.ones(count, bool)
    new[rows[rows >= 0]] = False
    return new
