"""A collection whose passages, queries, and judgments arrive night by night, for the benchmark of a month.

A real collection is put in order: arXiv by month and number of submission, MedQuAD by source and document. The first
part is the stock of the first night. The rest arrives in equal parts. Each night from the second, a share of the
passages is deleted, and a share is edited. A seed decides everything, so every policy gets the same nights.
"""

from __future__ import annotations

import random
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

from beir_files import write_qrels, write_rows
from drift_vectors import Collection, read_collection

WEEK = 7  # nights within which the queries of a new passage arrive
TEST_QUERIES, TEST_SHARE = 1000, 0.3  # queries of the test split at the end of the month, and their largest share
DEV_QUERIES, DEV_SHARE = 500, 0.15


@dataclass(frozen=True)
class Query:
    """A query, the passages that answer it, and its night. Its judgments are in the source from the next night on."""

    query: str
    text: str
    positives: frozenset[str]
    night: int  # 0: before the first night
    split: str


@dataclass(frozen=True)
class Source:
    """The state of the collection in a night, and the queries that users send until the next night."""

    passages: dict[str, str]
    judged: tuple[Query, ...]
    queries: tuple[Query, ...]  # held out of the source until the next night

    def write(self, folder: Path) -> None:
        """Write passages, judged queries, and qrels in BEIR layout. Later queries are not written."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "qrels").mkdir(parents=True)
        write_rows(folder / "corpus.jsonl", ({"_id": id_, "text": text} for id_, text in self.passages.items()))
        write_rows(folder / "queries.jsonl", ({"_id": query.query, "text": query.text} for query in self.judged))
        for split in ("train", "dev", "test"):
            queries = [query for query in self.judged if query.split == split]
            write_qrels(folder, split, ((query.query, name) for query in queries for name in sorted(query.positives)))


class Stream:
    """All nights of a collection.

    Args:
        folder: the collection in BEIR layout.
        nights: number of nights.
        limit: maximum number of passages, sampled evenly over time; 0: all.
        stock: share of the passages that are present in the first night.
        churn: share of the passages that are deleted each night, and share that is edited.
        seed: decides when queries arrive, their splits, and which passages are deleted or edited.
    """

    def __init__(self, folder: Path, nights: int, limit: int, stock: float, churn: float, seed: int) -> None:
        collection = read_collection(folder)
        passages = _sample_evenly(sorted(collection.passages, key=_order), limit)
        first = round(stock * len(passages))
        arrival = dict.fromkeys(passages[:first], 1)
        for number, passage in enumerate(passages[first:]):
            arrival[passage] = 2 + number * max(1, nights - 1) // (len(passages) - first)
        self.nights, self.churn, self.seed = nights, churn, seed
        self._texts, self._arrival = collection.passages, arrival
        self._queries = _queries_of(collection, arrival, nights, random.Random(f"queries {seed}"))

    def night(self, number: int) -> Source:
        """Return the state of a night, counted from 1. It contains nothing that arrives later."""
        passages: dict[str, str] = {}
        for night in range(1, number + 1):
            passages |= {id_: self._texts[id_] for id_, arrives in self._arrival.items() if arrives == night}
            if night > 1:
                self._change(passages, night)
        answered = [
            replace(query, positives=query.positives & passages.keys())
            for query in self._queries
            if query.night <= number and query.positives & passages.keys()
        ]
        return Source(
            passages,
            judged=tuple(query for query in answered if query.night < number),
            queries=tuple(query for query in answered if query.night == number),
        )

    def _change(self, passages: dict[str, str], night: int) -> None:
        """Delete a share of the passages, and edit a share of the remaining passages."""
        draw = random.Random(f"changes {self.seed} {night}")
        count = round(self.churn * len(passages))
        for passage in draw.sample(list(passages), count):
            del passages[passage]
        for passage in draw.sample(list(passages), min(count, len(passages))):
            start, _, rest = passages[passage].partition(". ")
            passages[passage] = f"Updated on night {night}. {rest or start}"


def _order(passage: str) -> tuple[int, ...]:
    """Return the place of an id in time: 2503.01234 by month and number, 1_0000001_2 by source and document."""
    return tuple(int(number) for number in passage.replace("_", ".").split("."))


def _sample_evenly(passages: list[str], limit: int) -> list[str]:
    if not limit or limit >= len(passages):
        return passages
    return [passages[number * len(passages) // limit] for number in range(limit)]


def _queries_of(collection: Collection, arrival: dict[str, int], nights: int, draw: random.Random) -> list[Query]:
    """Give each query with a positive a night and a split.

    Half of the queries of the stock arrive before the first night, the rest over the whole month. A query for a later
    passage arrives within a week of it.
    """
    answered = {
        query: frozenset(positives & arrival.keys())
        for query, positives in collection.positives.items()
        if positives & arrival.keys() and query in collection.queries
    }
    test = min(TEST_SHARE, TEST_QUERIES / max(1, len(answered)))
    dev = min(DEV_SHARE, DEV_QUERIES / max(1, len(answered)))
    queries = []
    for query, positives in answered.items():
        first = min(arrival[passage] for passage in positives)
        night = first + draw.randrange(WEEK) if first > 1 else _night_of_stock(nights, draw)
        place = draw.random()
        split = "test" if place < test else "dev" if place < test + dev else "train"
        queries.append(Query(query, collection.queries[query], positives, night, split))
    return queries


def _night_of_stock(nights: int, draw: random.Random) -> int:
    return 0 if draw.random() < 0.5 else draw.randint(1, nights)
