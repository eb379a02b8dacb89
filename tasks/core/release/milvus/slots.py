"""Slots: the numbers that stand in a collection's `row` field when it was built from a copy of an earlier generation.

A new passage shifts the rows of all passages behind it, but a copy keeps what is stored. So its field `row` keeps the
row that a passage had when it was inserted (its slot), and a file next to the collection maps rows to slots.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

FILE = "slots.i64"  # the slot of each row, int64 in native order
GAP = 64  # slots between two ranges of a filter; reading this many foreign rows is cheaper than another range


class Slots:
    """Maps rows of the snapshot to slots and back."""

    def __init__(self, slots: np.ndarray) -> None:
        self.of_rows = slots
        self._rows = np.full(int(slots.max(initial=-1)) + 1, -1, np.int64)
        self._rows[slots] = np.arange(len(slots))

    @property
    def end(self) -> int:
        """The first number behind all slots in use."""
        return len(self._rows)

    def row(self, slot: int) -> int:
        """Return the row of a slot, -1 for an unused slot."""
        return int(self._rows[slot]) if 0 <= slot < len(self._rows) else -1

    def select(self, rows: Sequence[int]) -> list[int]:
        """Return the slots of rows; rows out of range have none."""
        chosen = np.asarray(rows, np.int64)
        return self.of_rows[chosen[(chosen >= 0) & (chosen < len(self.of_rows))]].tolist() or [-1]

    def ranges(self, first: int, last: int) -> list[tuple[int, int]]:
        """Return ranges [start, end) that contain the slots of rows [first, last), and possibly others."""
        slots = np.sort(self.of_rows[first:last])
        if not len(slots):
            return []
        cuts = np.flatnonzero(np.diff(slots) > GAP)
        starts, ends = slots[np.concatenate([[0], cuts + 1])], slots[np.concatenate([cuts, [len(slots) - 1]])] + 1
        return list(zip(starts.tolist(), ends.tolist(), strict=True))

    def write(self, folder: Path) -> None:
        """Write the slots next to the collection."""
        self.of_rows.astype(np.int64).tofile(folder / FILE)


def read_slots(folder: Path) -> Slots | None:
    """Read the slots of a generation; None: each row is its own slot."""
    file = folder / FILE
    return Slots(np.fromfile(file, np.int64)) if file.exists() else None
