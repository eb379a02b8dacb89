"""Read candidates from runs, one batch of training queries at a time, and known positives, as NumPy columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from enum import StrEnum

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.mining.passage_texts import rows_of
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import given_negatives, qrels, queries
from tasks.core.text.shingles import expand

LINES_AT_ONCE = 262_144  # of a run file


class Source(StrEnum):
    """Sources of candidates, by the names of their shares in the settings."""

    BM25 = "bm25"
    DENSE = "dense"
    RANDOM = "random"  # has no run
    JUDGED = "judged"  # given negatives: has no run and no share, because they come first


@dataclass(frozen=True)
class Candidates:
    """Columns of candidates: element i of every field is candidate i, a passage that a source ranked for a query."""

    query: np.ndarray  # int64: row of the training query
    passage: np.ndarray  # int64: row in the snapshot
    source: np.ndarray  # int8: number of the source
    rank: np.ndarray  # int32: from 1; 0 for given negatives
    score: np.ndarray  # float32: from the source; NaN for random draws and given negatives, which have no score
    dense: np.ndarray  # float32: inner product with the current encoder; NaN until computed

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: np.ndarray) -> Candidates:
        """Return the candidates at `rows`, in that order."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))

    @classmethod
    def joined(cls, parts: Sequence[Candidates]) -> Candidates:
        """Concatenate the candidates of all `parts`."""
        return cls(*(np.concatenate([getattr(part, field.name) for part in (NONE, *parts)]) for field in fields(cls)))


NONE = Candidates(*(np.zeros(0, kind) for kind in ("i8", "i8", "i1", "i4", "f4", "f4")))


class RunReader:
    """Read a run once, in order, one batch of training queries at a time; skip the lines of other queries."""

    def __init__(self, run: Run, row_of_query: dict[str, int], source: int) -> None:
        self._run, self._row_of_query, self._source = run, row_of_query, source
        self._batches = pq.ParquetFile(run.path / RUN_FILE).iter_batches(LINES_AT_ONCE)
        self._buffered: list[tuple[np.ndarray, pa.RecordBatch]] = []
        self._last = -1

    def until(self, end: int) -> tuple[Candidates, pa.Array]:
        """Return the unread candidates of training queries before row `end`.

        Returns:
            The candidates, whose `passage` indexes the second value, and the distinct passage ids.

        Raises:
            Mismatch: the queries of the run are not in the order of the training queries.
        """
        while self._last < end and (batch := next(self._batches, None)) is not None:
            self._buffer(batch)
        buffered, later = [], []
        for rows, batch in self._buffered:
            cut = int(np.searchsorted(rows, end))
            buffered.append((rows[:cut], batch.slice(0, cut)))
            if cut < len(rows):
                later.append((rows[cut:], batch.slice(cut)))
        self._buffered = later
        query = np.concatenate([NONE.query, *(rows for rows, _ in buffered)])
        lines = pa.Table.from_batches([batch for _, batch in buffered], schema=LINES)
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

    def _buffer(self, batch: pa.RecordBatch) -> None:
        coded = batch["query_id"].dictionary_encode()
        row_of_code = np.array(
            [self._row_of_query.get(query_id, -1) for query_id in coded.dictionary.to_pylist()], np.int64
        )
        rows = row_of_code[coded.indices.to_numpy(zero_copy_only=False)]
        kept = np.flatnonzero(rows >= 0)
        rows = rows[kept]
        if len(rows) == 0:
            return
        if rows[0] < self._last or (np.diff(rows) < 0).any():
            raise Mismatch(f"run {self._run.path}: its queries are not in snapshot order. Search them again.")
        self._last = int(rows[-1])
        self._buffered.append((rows, batch.take(pa.array(kept)).select(LINES.names)))


LINES = pa.schema({"passage_id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def read_batches(
    snapshot: Snapshot, runs: Sequence[Run], training_queries: pa.Table, queries_at_once: int
) -> Iterator[tuple[range, Candidates]]:
    """Yield the candidates of all runs, `queries_at_once` training queries at a time, with the rows of these queries.

    Candidates of run i have source i. They are ordered by source, query, and rank.
    training_queries: query_id and text.

    Raises:
        Mismatch: a run has a passage that is not in the snapshot, or its queries are in another order.
    """
    row_of_query = {query_id: row for row, query_id in enumerate(training_queries["query_id"].to_pylist())}
    readers = [RunReader(run, row_of_query, source) for source, run in enumerate(runs)]
    for start in range(0, training_queries.num_rows, queries_at_once):
        end = min(start + queries_at_once, training_queries.num_rows)
        parts = [reader.until(end) for reader in readers]
        ids = pc.unique(pa.chunked_array([ids for _, ids in parts], pa.string()))
        rows = rows_of(snapshot, ids)
        joined = Candidates.joined([candidates for candidates, _ in parts])
        passage_rows = [rows[index_in(run_ids, ids)][candidates.passage] for candidates, run_ids in parts]
        yield (
            range(start, end),
            Candidates(
                joined.query,
                np.concatenate([NONE.passage, *passage_rows]),
                joined.source,
                joined.rank,
                joined.score,
                joined.dense,
            ),
        )


def read_given(snapshot: Snapshot, row_of_query: Mapping[str, int], source: int) -> Candidates:
    """Return the given negatives of the queries in `row_of_query` as candidates of rank 0, by query."""
    given = given_negatives(snapshot)
    given = given.filter(pc.is_in(given["query_id"], value_set=pa.array(row_of_query, pa.string())))
    query = np.array([row_of_query[query_id] for query_id in given["query_id"].to_pylist()], np.int64)
    order = np.argsort(query, kind="stable")
    missing = np.full(len(query), np.nan, np.float32)
    return Candidates(
        query[order],
        rows_of(snapshot, given["passage_id"].combine_chunks())[order],
        np.full(len(query), source, np.int8),
        np.zeros(len(query), np.int32),
        missing,
        missing,
    )


def known_positives(snapshot: Snapshot, training_queries: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return every known positive of the training queries as distinct pairs: query rows, ascending, and snapshot rows.

    Positives of all splits count, and so do the positives of any query with the same text. Both arrays are int64 (n,).
    """
    all_queries = queries(snapshot)
    judged = qrels(snapshot)
    judged = judged.filter(pc.greater(judged["relevance"], 0))
    texts = pc.unique(all_queries["text"])
    text_of_query = index_in(all_queries["text"], texts)
    text_of_qrel = text_of_query[index_in(judged["query_id"], all_queries["query_id"])]
    order = np.argsort(text_of_qrel, kind="stable")
    ordered = text_of_qrel[order]
    text_of_row = index_in(training_queries["text"], texts)
    low, high = np.searchsorted(ordered, text_of_row, "left"), np.searchsorted(ordered, text_of_row, "right")
    positions, rows = expand(low, high - low)
    coded = judged["passage_id"].combine_chunks().dictionary_encode()
    passage = rows_of(snapshot, coded.dictionary)[coded.indices.to_numpy(zero_copy_only=False)]
    pairs = np.unique(np.stack([rows, passage[order[positions]]], axis=1), axis=0)
    return pairs[:, 0], pairs[:, 1]


def index_in(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return the position of each value in `among`, int64 (values,); -1 for values that are not in it."""
    among = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    positions = pc.fill_null(pc.index_in(values, value_set=among), -1)
    result: np.ndarray = positions.to_numpy(zero_copy_only=False).astype(np.int64)
    return result
