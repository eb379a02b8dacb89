"""The candidates of a round, block by block of training queries, and the known positives, as plain number columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.mining.passage_texts import rows_of
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import qrels, queries
from tasks.core.text.shingles import expand

LINES_AT_ONCE = 262_144  # of a run's file


@dataclass(frozen=True)
class Candidates:
    """Column i of each field is candidate i: a passage that a source gave for a training query."""

    query: np.ndarray  # int64: row of the training query
    passage: np.ndarray  # int64: row in the snapshot
    source: np.ndarray  # int8: number of the source
    rank: np.ndarray  # int32: from 1
    score: np.ndarray  # float32: the source's own; NaN for a random draw, which ranks nothing
    dense: np.ndarray  # float32: inner product under the current encoder; NaN until it is known

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: np.ndarray) -> Candidates:
        """The candidates of these numbers, in their order."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """The candidates of all `parts`, one after the other."""
        return cls(*(np.concatenate([getattr(one, field.name) for one in (NONE, *parts)]) for field in fields(cls)))


NONE = Candidates(*(np.zeros(0, kind) for kind in ("i8", "i8", "i1", "i4", "f4", "f4")))


class RunReader:
    """Reads a run forwards, the lines of some training queries at a time; lines of other queries are passed over."""

    def __init__(self, run: Run, row_of_query: dict[str, int], source: int) -> None:
        self._run, self._row_of_query, self._source = run, row_of_query, source
        self._batches = pq.ParquetFile(run.path / RUN_FILE).iter_batches(LINES_AT_ONCE)
        self._waiting: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self._last = -1

    def until(self, end: int) -> tuple[Candidates, pa.Array]:
        """The unread candidates of training queries before `end`: their passages are rows of the ids that come along.

        Raises Mismatch when the run's queries are not in the order of the training queries.
        """
        while self._last < end and (batch := next(self._batches, None)) is not None:
            self._take_in(batch)
        parts, rest = [], []
        for rows, batch in self._waiting:
            cut = int(np.searchsorted(rows, end))
            parts.append((rows[:cut], batch.slice(0, cut)))
            if cut < len(rows):
                rest.append((rows[cut:], batch.slice(cut)))
        self._waiting = rest
        query = np.concatenate([NONE.query, *(rows for rows, _ in parts)])
        lines = pa.Table.from_batches([batch for _, batch in parts], schema=LINES)
        coded = lines["passage_id"].combine_chunks().dictionary_encode()
        candidates = Candidates(
            query=query,
            passage=coded.indices.to_numpy(zero_copy_only=False).astype(np.int64),
            source=np.full(len(query), self._source, np.int8),
            rank=lines["rank"].to_numpy(),
            score=lines["score"].to_numpy(),
            dense=np.full(len(query), np.nan, np.float32),
        )
        return candidates, coded.dictionary

    def _take_in(self, batch: pa.RecordBatch) -> None:
        coded = batch["query_id"].dictionary_encode()
        known = np.array([self._row_of_query.get(name, -1) for name in coded.dictionary.to_pylist()], np.int64)
        rows = known[coded.indices.to_numpy(zero_copy_only=False)]
        ours = np.flatnonzero(rows >= 0)
        rows = rows[ours]
        if len(rows) == 0:
            return
        if rows[0] < self._last or (np.diff(rows) < 0).any():
            raise Mismatch(f"run {self._run.path}: its queries are not in the order of the snapshot; search them again")
        self._last = int(rows[-1])
        self._waiting.append((rows, batch.take(pa.array(ours)).select(LINES.names)))


LINES = pa.schema({"passage_id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def blocks(
    snapshot: Snapshot, runs: Sequence[Run], wording: pa.Table, queries_at_once: int
) -> Iterator[tuple[range, Candidates]]:
    """The runs' candidates for the training queries `wording` (query_id, text), so many queries at a time.

    Candidates of run i have source i; they are ordered by source, query and rank.

    Raises Mismatch when a run names a passage that the snapshot has not, or has its queries in another order.
    """
    row_of_query = {name: row for row, name in enumerate(wording["query_id"].to_pylist())}
    readers = [RunReader(run, row_of_query, source) for source, run in enumerate(runs)]
    for start in range(0, wording.num_rows, queries_at_once):
        end = min(start + queries_at_once, wording.num_rows)
        read = [reader.until(end) for reader in readers]
        ids = pc.unique(pa.chunked_array([ids for _, ids in read], pa.string()))
        rows = rows_of(snapshot, ids)
        found = Candidates.joined([one for one, _ in read])
        renamed = [rows[index_in(own, ids)][one.passage] for one, own in read]
        yield (
            range(start, end),
            Candidates(
                found.query,
                np.concatenate([NONE.passage, *renamed]),
                found.source,
                found.rank,
                found.score,
                found.dense,
            ),
        )


def known_positives(snapshot: Snapshot, wording: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Every known positive of the queries in `wording`: their rows, ascending, and snapshot rows; distinct pairs.

    All splits count, and so do the positives of any query with the same text. Both int64 (n,).
    """
    everyone = queries(snapshot)
    judged = qrels(snapshot)
    judged = judged.filter(pc.greater(judged["relevance"], 0))
    texts = pc.unique(everyone["text"])
    text_of_query = index_in(everyone["text"], texts)
    text_of_qrel = text_of_query[index_in(judged["query_id"], everyone["query_id"])]
    order = np.argsort(text_of_qrel, kind="stable")
    ordered = text_of_qrel[order]
    asked = index_in(wording["text"], texts)
    low, high = np.searchsorted(ordered, asked, "left"), np.searchsorted(ordered, asked, "right")
    at, owner = expand(low, high - low)
    coded = judged["passage_id"].combine_chunks().dictionary_encode()
    passage = rows_of(snapshot, coded.dictionary)[coded.indices.to_numpy(zero_copy_only=False)]
    pairs = np.unique(np.stack([owner, passage[order[at]]], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def index_in(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Where each value stands in `among`, int64; -1 when it is not there."""
    among = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    found = pc.fill_null(pc.index_in(values, value_set=among), -1)
    at: np.ndarray = found.to_numpy(zero_copy_only=False).astype(np.int64)
    return at
