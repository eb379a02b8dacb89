"""The lexical index of an open release, and the ids of its passages."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.checksums import forget_digests
from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.base.files import find_artifact
from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import Postings, Snapshot
from tasks.core.base.settings import cores
from tasks.core.release.lexical import NEXT, open_lexical
from tasks.core.retrieval.bm25_scorer import Bm25Scorer, Hits, Weights
from tasks.core.retrieval.postings_format import DOCUMENTS
from tasks.core.snapshot.reader import PASSAGES


class Lexical:
    """BM25 over the snapshot of one release. Thread-safe.

    A release that ranks with BM25 opens its index at once; for others it is opened by the first search that needs it.
    """

    def __init__(self, home: Path, ranking: Ranking, snapshot: str, rows: int) -> None:
        """Raises as `open_lexical` when the release ranks with BM25."""
        self._home, self._ranking, self._snapshot, self._rows = home, ranking, snapshot, rows
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(cores(), "nightshift-lexical")
        self._scorer: Bm25Scorer | None = None
        self._file = 0  # inode of the mapped file
        self._ids: pa.ChunkedArray | None = None
        self.damage: NightshiftError | None = None
        if ranking.mode is not Mode.DENSE:
            self.search(["warm"], 1)  # compiles the scorer before users wait for it
            self.passage_ids([0])

    @property
    def scorer(self) -> Bm25Scorer:
        """The open index. Raises as `open_lexical`, and `damage` if it is set."""
        if self.damage is not None:
            raise self.damage
        scorer = self._scorer
        if scorer is None:
            with self._lock:
                scorer = self._scorer or self._open()
        return scorer

    def _open(self) -> Bm25Scorer:
        """Open the index. The caller holds the lock."""
        try:
            self._scorer = scorer = open_lexical(self._home, self._ranking, self._snapshot, self._rows)
            self._file = (self._folder / DOCUMENTS).stat().st_ino
        except Damaged as error:
            self.damage = error
            raise
        return scorer

    def search(self, queries: Sequence[str], depth: int) -> list[Hits]:
        """Return rows and scores of the best passages for each query; see `Bm25Scorer.search`."""
        return self.scorer.search(queries, depth)

    def weights(self, queries: Sequence[str]) -> list[Weights]:
        """Return the weights of the terms of each query; see `Bm25Scorer.weights`."""
        scorer = self.scorer
        return [scorer.weights(query) for query in queries]

    def search_later(self, weights: Sequence[Weights], depth: int) -> Future[list[Hits]]:
        """Start `search` for weighted queries in another thread."""
        return self._pool.submit(self.scorer.search_weighted, weights, depth)

    def passage_ids(self, rows: Sequence[int]) -> list[str]:
        """Return the ids of passages by their rows in the snapshot."""
        if self._ids is None:
            file = self._home / Snapshot.shelf / self._snapshot / PASSAGES
            self._ids = pq.read_table(file, columns=["passage_id"])["passage_id"].combine_chunks()
        ids: list[str] = self._ids.take(pa.array(rows, pa.int64())).to_pylist()
        return ids

    def check(self) -> None:
        """Read the files again if the index is in use or was damaged, and store the error, if any, in `damage`.

        An index that was rebuilt in the meantime is opened again: the mapped files are the damaged ones.
        """
        if self._scorer is None and self.damage is None:
            return
        with self._lock:
            forget_digests(self._folder)
            if find_artifact(self._home, Postings, self._ranking.postings) is None:
                self.damage, self._scorer = Damaged(f"{self._folder}: lexical index damaged or missing. {NEXT}"), None
                return
            self.damage = None
            if self._scorer is not None and (self._folder / DOCUMENTS).stat().st_ino != self._file:
                self._open()

    @property
    def _folder(self) -> Path:
        return self._home / Postings.shelf / self._ranking.postings

    def close(self) -> None:
        """Free the index."""
        self._pool.shutdown()
        self._scorer = self._ids = None
