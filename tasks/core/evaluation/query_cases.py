"""Find the queries that two systems answer most differently, with the top passages of each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from tasks.core.base.receipts import Evaluation, Snapshot
from tasks.core.evaluation.evaluate import read_per_query, read_run, run_of
from tasks.core.evaluation.significance import MEASURE
from tasks.core.snapshot.reader import passages_by_id, qrels, queries

FIRST = 3  # passages shown per system


class ShownPassage(BaseModel):
    """A passage as shown in a report."""

    model_config = ConfigDict(frozen=True)

    passage_id: str
    title: str
    text: str
    relevant: bool


class Case(BaseModel):
    """One query in two systems: nDCG@10, the top passages, and the rank of the first relevant passage."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    query: str
    ours: float
    theirs: float
    our_rank: int | None  # of the first relevant passage; None: not retrieved
    their_rank: int | None
    relevant: tuple[ShownPassage, ...]
    our_first: tuple[ShownPassage, ...]
    their_first: tuple[ShownPassage, ...]

    @property
    def gain(self) -> float:
        """The difference in nDCG@10, ours − theirs."""
        return self.ours - self.theirs


def most_different(
    home: Path, ours: Evaluation, theirs: Evaluation, snapshot: Snapshot, count: int
) -> tuple[list[Case], list[Case]]:
    """Return the `count` largest losses and gains of our system in nDCG@10, largest first; ties by query id.

    Both systems must be measured on the same queries of `snapshot`. Streams the passages once.
    """
    left, right = read_per_query(ours), read_per_query(theirs)
    gains = dict(
        zip(
            left["query_id"].to_pylist(),
            pc.subtract(left[MEASURE], right[MEASURE]).to_pylist(),
            strict=True,
        )
    )
    ordered = sorted(gains, key=lambda query: (gains[query], query))
    lost = [query for query in ordered[:count] if gains[query] < 0]
    won = sorted((query for query in gains if gains[query] > 0), key=lambda query: (-gains[query], query))[:count]
    cases = _Cases(home, ours, theirs, snapshot, [*lost, *won])
    return [cases.case(query) for query in lost], [cases.case(query) for query in won]


class _Cases:
    """Texts, rankings, and measures of the wanted queries, read in one pass over each file."""

    def __init__(
        self, home: Path, ours: Evaluation, theirs: Evaluation, snapshot: Snapshot, wanted: Iterable[str]
    ) -> None:
        query_ids = pa.array(list(wanted), pa.string())
        texts = queries(snapshot)
        texts = texts.filter(pc.is_in(texts["query_id"], value_set=query_ids))
        self.texts = dict(zip(texts["query_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
        self.relevant = _passage_lists(qrels(snapshot, ours.split), query_ids)
        self.ranked = [_passage_lists(read_run(run_of(home, system)), query_ids) for system in (ours, theirs)]
        self.ndcg = [_ndcg_by_query(system) for system in (ours, theirs)]
        lists = [ids for by_query in (*self.ranked, self.relevant) for ids in by_query.values()]
        shown = sorted({passage for ids in lists for passage in ids[:FIRST]})
        self.passages = passages_by_id(snapshot, pa.array(shown, pa.string()))

    def case(self, query: str) -> Case:
        relevant = self.relevant[query]
        ours, theirs = (ranked.get(query, []) for ranked in self.ranked)
        return Case(
            query_id=query,
            query=self.texts[query],
            ours=self.ndcg[0][query],
            theirs=self.ndcg[1][query],
            our_rank=_first_rank(ours, relevant),
            their_rank=_first_rank(theirs, relevant),
            relevant=self._show(relevant, relevant),
            our_first=self._show(ours, relevant),
            their_first=self._show(theirs, relevant),
        )

    def _show(self, ids: list[str], relevant: list[str]) -> tuple[ShownPassage, ...]:
        return tuple(
            ShownPassage(passage_id=passage, title=title, text=text, relevant=passage in relevant)
            for passage in ids[:FIRST]
            for title, text in [self.passages[passage]]
        )


def _passage_lists(table: pa.Table, query_ids: pa.Array) -> dict[str, list[str]]:
    """Map query ids to passage ids, in the order of the table."""
    by_query: dict[str, list[str]] = defaultdict(list)
    table = table.filter(pc.is_in(table["query_id"], value_set=query_ids))
    for query, passage in zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True):
        by_query[query].append(passage)
    return by_query


def _ndcg_by_query(evaluation: Evaluation) -> Mapping[str, float]:
    table = read_per_query(evaluation)
    return dict(zip(table["query_id"].to_pylist(), table[MEASURE].to_pylist(), strict=True))


def _first_rank(ranked: list[str], relevant: list[str]) -> int | None:
    return next((rank for rank, passage in enumerate(ranked, start=1) if passage in relevant), None)
