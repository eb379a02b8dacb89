"""Leaves forgotten passages out of answers, from the moment that their tombstones are written."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.ranking import Mode
from tasks.core.search.filters import Filters
from tasks.core.search.pinned import HITS_A_REQUEST, Answer, Pinned
from tasks.core.snapshot.reader import PASSAGES
from tasks.core.text.tombstones import Tombstones, WatchedTombstones


class ForgottenHits:
    """Searches an open release for as many extra hits as it has forgotten passages, and drops these. Thread-safe."""

    def __init__(self, home: Path) -> None:
        self._watched = WatchedTombstones(home)
        self._counted: tuple[Path, str, int] | None = None  # snapshot, digest of the tombstones, passages

    def search(self, pinned: Pinned, queries: Sequence[str], k: int, where: Filters, mode: Mode | None) -> list[Answer]:
        """Return the answers of `Pinned.search` without forgotten passages; raises as it does."""
        tombstones = self._watched.current()
        spare = self._spare(pinned, tombstones)
        if not spare:
            return pinned.search(queries, k, where, mode)
        answers = pinned.search(queries, min(k + spare, HITS_A_REQUEST), where, mode)
        return [_without_forgotten(answer, tombstones, k) for answer in answers]

    def count(self, pinned: Pinned) -> None:
        """Count the forgotten passages of a release. Until then, all tombstones count, which is correct but slower."""
        tombstones = self._watched.current()
        key = (pinned.snapshot, tombstones.digest)
        if not tombstones.passages or (self._counted is not None and self._counted[:2] == key):
            return
        try:
            with pq.ParquetFile(pinned.snapshot / PASSAGES) as file:
                batches = file.iter_batches(columns=["passage_id"])
                ids = (row_id for batch in batches for row_id in batch["passage_id"].to_pylist())
                self._counted = (*key, sum(tombstones.match_id("passages", row_id) for row_id in ids))
        except (OSError, pa.ArrowException):
            self._counted = None  # the snapshot was removed

    def _spare(self, pinned: Pinned, tombstones: Tombstones) -> int:
        counted = self._counted
        if not tombstones.passages or counted is None:
            return len(tombstones.passages)
        return counted[2] if counted[:2] == (pinned.snapshot, tombstones.digest) else len(tombstones.passages)


def _without_forgotten(answer: Answer, tombstones: Tombstones, k: int) -> Answer:
    hits = [hit for hit in answer.hits if not tombstones.match_id("passages", hit.passage_id)][:k]
    return answer.model_copy(
        update={"hits": tuple(hit.model_copy(update={"rank": rank}) for rank, hit in enumerate(hits, 1))}
    )
