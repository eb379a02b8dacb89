"""What complete drift checks decide in each situation of the guide, over real queries.

    python tests/benchmarks/drift_situations.py MEDQUAD SCIFACT --home HOME
        [--queries 1000] [--nights 12] [--tokens 128]

MEDQUAD and SCIFACT are collections in BEIR layout. A fifth of MedQuAD's topics is held back with its passages. Half of
the other training queries and all dev and test queries are the source; the other half is traffic. After some nights of
normal traffic, each situation starts from the same state. It is a log of a few nights, checked by `watch` with default
settings. The table has the decisions of its nights. HOME keeps the vectors for later runs.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from beir_files import read_rows, write_qrels, write_rows
from drift_check import release_of
from drift_vectors import Collection, add_typos, read_collection, to_german, topic_of_queries

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Drift
from tasks.core.drift.statistics import build_reference
from tasks.core.drift.watch import watch
from tasks.core.embedding.shards import gather_shards
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of
from tasks.core.training.trainer import base_encoder

START = datetime(2026, 1, 1, 2, tzinfo=UTC)
HELD_BACK = 0.2  # share of the topics
SPLITS = ("train", "dev", "test")

Log = list[str]  # the queries of a night


class Traffic(NamedTuple):
    """Queries that the situations draw from."""

    usual: Log
    new_topics: Log
    other: Log  # of another domain
    random: random.Random

    def night(self, count: int, source: Sequence[str] | None = None) -> Log:
        """Draw queries, without replacement."""
        source = self.usual if source is None else source
        return self.random.sample(source, min(count, len(source)))


def main() -> None:
    """Print a row for each situation."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("medquad", type=Path, help="MedQuAD in BEIR layout")
    arguments.add_argument("scifact", type=Path, help="SciFact in BEIR layout: queries of another domain")
    arguments.add_argument("--home", type=Path, required=True, help="folder for the source and its artifacts")
    arguments.add_argument("--queries", type=int, default=1000, help="queries of a night")
    arguments.add_argument("--nights", type=int, default=12, help="normal nights before each situation")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    chosen = arguments.parse_args()
    chosen.home.mkdir(parents=True, exist_ok=True)
    traffic = prepare(chosen.medquad, chosen.scifact, chosen.home / "source")
    settings = Settings.model_validate(
        {
            "home": chosen.home,
            "data": {"format": "beir", "path": chosen.home / "source"},
            "encoder": {"passage_tokens": chosen.tokens},
            "drift": {"queries": chosen.home / "log.jsonl"},
        }
    )
    checks = Checks(settings, chosen.nights)
    normal = [traffic.night(chosen.queries) for _ in range(chosen.nights)]
    checks.begin(normal)
    print("| situation | decisions, night by night | evidence | suspect | queries counted |\n|---|---|---:|---:|---:|")
    for name, logs in situations(traffic, chosen.queries, normal):
        print(checks.row(name, logs), flush=True)


def prepare(medquad: Path, scifact: Path, source: Path) -> Traffic:
    """Write the source, and return the traffic."""
    collection, draw = read_collection(medquad), random.Random(0)
    topics = topic_of_queries(collection.queries, collection.positives)
    names = sorted(set(topics.values()))
    new = set(draw.sample(names, round(HELD_BACK * len(names))))
    new_queries = [query for query in collection.queries if topics[query] in new]
    gone = {passage for query in new_queries for passage in collection.positives[query]}
    usual = _write_source(medquad, collection, gone, source, draw)
    texts = collection.queries
    other = [row["text"] for row in read_rows(scifact / "queries.jsonl")]
    return Traffic([texts[query] for query in usual], [texts[query] for query in new_queries], other, draw)


def _write_source(medquad: Path, collection: Collection, gone: set[str], source: Path, draw: random.Random) -> Log:
    """Write the passages that stay and half of the training queries; return the ids of the other half."""
    shutil.rmtree(source, ignore_errors=True)
    (source / "qrels").mkdir(parents=True)
    write_rows(source / "corpus.jsonl", (row for row in read_rows(medquad / "corpus.jsonl") if row["_id"] not in gone))
    usual: Log = []
    for split in SPLITS:
        lines = (medquad / "qrels" / f"{split}.tsv").read_text(encoding="utf-8").splitlines()[1:]
        pairs = [(query, passage) for query, passage, _ in (line.split("\t") for line in lines) if passage not in gone]
        queries = sorted({query for query, _ in pairs})
        if split == "train":
            usual = draw.sample(queries, len(queries) // 2)
            queries = sorted(set(queries) - set(usual))
        kept = set(queries)
        write_qrels(source, split, (pair for pair in pairs if pair[0] in kept))
        with (source / "queries.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"_id": query, "text": collection.queries[query]}) + "\n" for query in queries)
    return usual


def situations(traffic: Traffic, count: int, normal: list[Log]) -> Iterator[tuple[str, list[Log]]]:
    """Yield each situation with its nights."""
    few = count // 20

    def mixed(share: float, change: Callable[[Log], Log]) -> Log:
        night = traffic.night(count)
        cut = round(share * count)
        return night[cut:] + change(night[:cut])

    def damaged(queries: Log) -> Log:
        return [add_typos(query, 0.05, traffic.random) for query in queries]

    bot = [traffic.new_topics[0]] * (5 * count)
    yield "normal traffic", [traffic.night(count) for _ in range(5)]
    yield "5 % new topics", [traffic.night(count - few) + traffic.night(few, traffic.new_topics) for _ in range(8)]
    yield "20 % new topics", [mixed(0.2, lambda cut: traffic.night(len(cut), traffic.new_topics)) for _ in range(3)]
    yield "30 % of another domain", [mixed(0.3, lambda cut: traffic.night(len(cut), traffic.other)) for _ in range(3)]
    extraordinary = mixed(0.5, lambda cut: traffic.night(len(cut), traffic.other))
    yield "one extraordinary night", [extraordinary, *(traffic.night(count) for _ in range(3))]
    yield "typos in 5 % of the letters", [mixed(1.0, damaged) for _ in range(3)]
    yield "typos in a tenth of the queries", [mixed(0.1, damaged) for _ in range(3)]
    yield "a third in German", [mixed(0.33, to_german) for _ in range(3)]
    yield "a bot repeats a query", [traffic.night(count) + bot for _ in range(3)]
    yield (
        "a bot varies its query",
        [traffic.night(count) + [f"{bot[0]} {number}" for number in range(count // 4)] for _ in range(3)],
    )
    yield "an empty log", [[] for _ in range(3)]
    yield "the log of yesterday again", [normal[-1]] * 3
    by_wording = sorted(traffic.usual)  # templates: a night has one kind of question
    parts = [by_wording[number * len(by_wording) // 4 :][: len(by_wording) // 4] for number in range(4)]
    yield "a wild mix: one kind of question a night", [traffic.night(count, part) for part in parts]
    yield "few queries", [traffic.night(30) for _ in range(4)]


class Checks:
    """Nightly checks of a home. Each row starts from the state after `begin`."""

    def __init__(self, settings: Settings, first: int) -> None:
        self.settings, self.first = settings, first
        self.snapshot: Snapshot = ingest(settings)[1]
        encoder = base_encoder(settings.home, self.snapshot, settings.encoder, settings.embedding)
        embeddings = gather_shards(settings.home, encoder, self.snapshot, settings.embedding.shards)
        build_reference(settings.home, encoder, embeddings, self.snapshot)
        self.release: Release = release_of(settings, encoder, embeddings, self.snapshot)
        self.log = settings.home / "log.jsonl"
        self.state, self.saved = settings.home / "drift", settings.home / "drift-saved"
        self.length = 0

    def begin(self, normal: list[Log]) -> None:
        """Check normal nights, and save the state."""
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.rmtree(self.saved, ignore_errors=True)
        self.log.write_text("")
        for night, queries in enumerate(normal):
            self._check(queries, night)
        shutil.copytree(self.state, self.saved)
        self.length = self.log.stat().st_size

    def row(self, name: str, logs: list[Log]) -> str:
        """Check the nights of a situation; return the row of the table."""
        shutil.rmtree(self.state)
        shutil.copytree(self.saved, self.state)
        with self.log.open("r+b") as file:
            file.truncate(self.length)
        drifts = [self._check(queries, self.first + night) for night, queries in enumerate(logs)]
        windows = [window for window in drifts[-1].windows if window.number > self.first]
        counted = " ".join(f"{window.queries:,}" for window in windows) or "none"
        return (
            f"| {name} | {' '.join(drift.verdict.value for drift in drifts)} | {drifts[-1].evidence:,.0f} |"
            f" {sum(window.suspect for window in windows)} | {counted} |"
        )

    def _check(self, queries: Log, night: int) -> Drift:
        with self.log.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({"query": query}, ensure_ascii=False) + "\n" for query in queries)
        now = START + timedelta(days=night)
        return watch(self.settings, self.release, self.snapshot, recipe_of(self.settings), now)


if __name__ == "__main__":
    main()
