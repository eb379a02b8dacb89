"""The candidates of a round and the positives of its queries, as plain number columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.data.snapshot import qrels, queries
from tasks.core.mining.runs import RUN_FILE
from tasks.core.mining.shingles import expand
from tasks.core.receipts import Run, Snapshot


@dataclass(frozen=True)
class Candidates:
    """Column i of each field is candidate i: a passage that a run (`source`) gave for a training query."""

    query: np.ndarray  # int32: row of the training query
    passage: np.ndarray  # int32: its number among the ids it was read with
    source: np.ndarray  # int8: number of the run
    rank: np.ndarray  # int32: from 1
    score: np.ndarray  # float32: the run's own
    dense: np.ndarray  # float32: inner product under the current encoder

    def __len__(self) -> int:
        return len(self.query)

    def take(self, rows: np.ndarray) -> Candidates:
        """The candidates of these numbers, in their order."""
        return Candidates(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Hits:
    """One run's lines for the training queries; passages as codes into `ids`."""

    query: np.ndarray
    code: np.ndarray
    rank: np.ndarray
    score: np.ndarray
    ids: pa.Array  # strings: those that occur in the run


def read_run(run: Run, wording: pa.Table) -> Hits:
    """Read the lines of a run that are for queries of `wording` (query_id, text), 16 bytes a line."""
    table = pq.read_table(run.path / RUN_FILE, read_dictionary=["query_id", "passage_id"])
    query = table["query_id"].unify_dictionaries().combine_chunks()
    passage = table["passage_id"].unify_dictionaries().combine_chunks()
    row = _rows_of(query.dictionary, wording["query_id"])[query.indices.to_numpy(zero_copy_only=False)]
    mine = row >= 0
    return Hits(
        query=row[mine].astype(np.int32),
        code=passage.indices.to_numpy(zero_copy_only=False)[mine],
        rank=table["rank"].to_numpy()[mine],
        score=table["score"].to_numpy()[mine],
        ids=passage.dictionary,
    )


def as_candidates(hits: Sequence[Hits], pool_ids: pa.Array) -> Candidates:
    """Put the runs one after the other, their passages renamed to rows of `pool_ids`; dense scores still NaN."""
    count = sum(len(one.query) for one in hits)
    passages = [_rows_of(one.ids, pool_ids)[one.code].astype(np.int32) for one in hits]
    return Candidates(
        query=np.concatenate([one.query for one in hits]),
        passage=np.concatenate(passages),
        source=np.repeat(np.arange(len(hits), dtype=np.int8), [len(one.query) for one in hits]),
        rank=np.concatenate([one.rank for one in hits]),
        score=np.concatenate([one.score for one in hits]),
        dense=np.full(count, np.nan, np.float32),
    )


def known_positives(snapshot: Snapshot, wording: pa.Table) -> tuple[np.ndarray, pa.Array]:
    """Every known positive of the queries in `wording`: their rows int64 (n,) and the passages' ids (n,).

    All splits count, and so do the positives of any query with the same text.
    """
    everyone = queries(snapshot)
    judged = qrels(snapshot)
    judged = judged.filter(pc.greater(judged["relevance"], 0))
    texts = pc.unique(everyone["text"])
    text_of_query = _rows_of(everyone["text"], texts)
    text_of_qrel = text_of_query[_rows_of(judged["query_id"], everyone["query_id"])]
    order = np.argsort(text_of_qrel, kind="stable")
    ordered = text_of_qrel[order]
    asked = _rows_of(wording["text"], texts)
    low, high = np.searchsorted(ordered, asked, "left"), np.searchsorted(ordered, asked, "right")
    at, owner = expand(low, high - low)
    ids = judged["passage_id"].combine_chunks().take(pa.array(order[at]))
    return owner, ids


def _rows_of(values: pa.Array | pa.ChunkedArray, among: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Where each value stands in `among`, int64; -1 when it is not there."""
    among = among.combine_chunks() if isinstance(among, pa.ChunkedArray) else among
    found = pc.index_in(values, value_set=among)
    return pc.fill_null(found, -1).to_numpy().astype(np.int64)
