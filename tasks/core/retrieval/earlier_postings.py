"""Postings of an earlier snapshot whose passages are mostly the same: only new and changed passages are analyzed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tasks.core.base.files import receipts_newest_first
from tasks.core.base.mapped_arrays import map_array
from tasks.core.base.receipts import Postings, Snapshot
from tasks.core.retrieval.postings_format import DOCUMENTS, FREQUENCIES, NORMS, TERMS
from tasks.core.snapshot.earlier import find_earlier

BLOCK = 1 << 22  # postings read at once


@dataclass(frozen=True)
class EarlierPostings:
    """Postings to take over, and where their passages are now."""

    postings: Postings
    snapshot: Snapshot
    rows: np.ndarray  # int64 (earlier passages,): row in the new snapshot; -1: changed or removed

    def terms(self) -> list[str]:
        """Return the terms in the order of their numbers."""
        terms: list[str] = pq.read_table(self.postings.path / TERMS)["term"].to_pylist()
        return terms

    def batches(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield terms int64, new rows int32, and counts uint16, (n,) each, of the postings that stay."""
        ends = pq.read_table(self.postings.path / TERMS)["end"].to_numpy()
        documents = map_array(self.postings.path / DOCUMENTS, np.int32)
        counts = map_array(self.postings.path / FREQUENCIES, np.uint16)
        new_rows = self.rows.astype(np.int32)
        for first in range(0, len(documents), BLOCK):
            last = min(first + BLOCK, len(documents))
            rows = new_rows[documents[first:last]]
            stay = rows >= 0
            terms = np.arange(np.searchsorted(ends, first, "right"), np.searchsorted(ends, last - 1, "right") + 1)
            sizes = np.diff(np.minimum(ends[terms], last), prepend=first)
            yield np.repeat(terms, sizes)[stay], rows[stay], counts[first:last][stay]

    def take_norms(self, norms: np.ndarray) -> None:
        """Copy the encoded lengths of the passages that stay into uint8 (new passages,)."""
        stay = self.rows >= 0
        norms[self.rows[stay]] = map_array(self.postings.path / NORMS, np.uint8)[stay]


def find_earlier_postings(
    home: Path, snapshot: Snapshot, postings_of: Callable[[Snapshot], Postings | None]
) -> EarlierPostings | None:
    """Find postings of an earlier snapshot that has at least half of the passages of `snapshot`.

    Args:
        home: folder of the artifacts.
        snapshot: the passages to index.
        postings_of: returns the postings of a snapshot for the same analyzer, None if there are none.
    """
    made = (
        (earlier.digest, postings)
        for earlier in receipts_newest_first(home, Snapshot)
        if earlier.digest != snapshot.digest and (postings := postings_of(earlier)) is not None
    )
    earlier = find_earlier(home, snapshot, made)
    return None if earlier is None else EarlierPostings(*earlier)
