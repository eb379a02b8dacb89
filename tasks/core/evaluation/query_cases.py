"""The queries that two systems answer most differently, with the passages that each put first."""

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
from tasks.core.snapshot.reader import passages, qrels, queries

FIRST = 3  # passages of each system that are shown


class Shown(BaseModel):
    """A passage as a person sees it."""

    model_config = ConfigDict(frozen=True)

    passage_id: str
    title: str
    text: str
    relevant: bool


class Case(BaseModel):
    """One query under two systems: nDCG@10, the first passages, and where the first relevant one stands."""

    model_config = ConfigDict(frozen=True)

    query_id: str
    query: str
    ours: float
    theirs: float
    our_rank: int | None  # of the first relevant passage; None: not found at all
    their_rank: int | None
    relevant: tuple[Shown, ...]
    our_first: tuple[Shown, ...]
    their_first: tuple[Shown, ...]

    @property
    def gain(self) -> float:
        """ours − theirs."""
        return self.ours - self.theirs


def most_different(
    home: Path, ours: Evaluation, theirs: Evaluation, snapshot: Snapshot, count: int
) -> tuple[list[Case], list[Case]]:
    """The `count` worst losses and best gains of ours over theirs in nDCG@10, largest first; ties by query id.

    Both must have been measured on the same queries of `snapshot`. Reads the passages once, as a stream.
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
    build = _Cases(home, ours, theirs, snapshot, [*lost, *won])
    return [build.case(query) for query in lost], [build.case(query) for query in won]


class _Cases:
    """What is known of some queries, read in one pass over each file."""

    def __init__(
        self, home: Path, ours: Evaluation, theirs: Evaluation, snapshot: Snapshot, wanted: Iterable[str]
    ) -> None:
        asked = pa.array(list(wanted), pa.string())
        texts = queries(snapshot)
        texts = texts.filter(pc.is_in(texts["query_id"], value_set=asked))
        self.query = dict(zip(texts["query_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
        self.relevant = _lists(qrels(snapshot, ours.split), asked)
        self.ranked = [_lists(read_run(run_of(home, one)), asked) for one in (ours, theirs)]
        self.value = [_values(one) for one in (ours, theirs)]
        first = [found for ranked in self.ranked for one in ranked.values() for found in one[:FIRST]]
        self.passage = _passages(
            snapshot, {*first, *(one for found in self.relevant.values() for one in found[:FIRST])}
        )

    def case(self, query: str) -> Case:
        relevant = self.relevant[query]
        ours, theirs = (ranked.get(query, []) for ranked in self.ranked)
        return Case(
            query_id=query,
            query=self.query[query],
            ours=self.value[0][query],
            theirs=self.value[1][query],
            our_rank=_first_rank(ours, relevant),
            their_rank=_first_rank(theirs, relevant),
            relevant=self._shown(relevant, relevant),
            our_first=self._shown(ours, relevant),
            their_first=self._shown(theirs, relevant),
        )

    def _shown(self, ids: list[str], relevant: list[str]) -> tuple[Shown, ...]:
        return tuple(
            Shown(passage_id=one, title=title, text=text, relevant=one in relevant)
            for one in ids[:FIRST]
            for title, text in [self.passage[one]]
        )


def _lists(table: pa.Table, asked: pa.Array) -> dict[str, list[str]]:
    """query_id → passage ids, in the order of the table."""
    found: dict[str, list[str]] = defaultdict(list)
    table = table.filter(pc.is_in(table["query_id"], value_set=asked))
    for query, passage in zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True):
        found[query].append(passage)
    return found


def _values(evaluation: Evaluation) -> Mapping[str, float]:
    table = read_per_query(evaluation)
    return dict(zip(table["query_id"].to_pylist(), table[MEASURE].to_pylist(), strict=True))


def _passages(snapshot: Snapshot, wanted: set[str]) -> dict[str, tuple[str, str]]:
    """passage_id → title and text."""
    ids = pa.array(sorted(wanted), pa.string())
    found = {}
    for batch in passages(snapshot, columns=["passage_id", "title", "text"]):
        for row in batch.filter(pc.is_in(batch["passage_id"], value_set=ids)).to_pylist():
            found[row["passage_id"]] = (row["title"], row["text"])
    return found


def _first_rank(ranked: list[str], relevant: list[str]) -> int | None:
    return next((rank for rank, one in enumerate(ranked, start=1) if one in relevant), None)
