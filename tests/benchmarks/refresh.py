"""Cost of a refresh night, by step, against the first night of the same collection; and the searches of its release.

    python tests/benchmarks/refresh.py FOLDER [--passages N] [--share 0.01] [--tokens 64] [--index FLAT] [--nights 1]

FOLDER is a collection in BEIR layout, of which at most 1,000 training qrels are used. The first night ingests and
embeds it with the base model, builds both BM25 indexes, evaluates, and publishes; nothing is trained. Before each
refresh night, a share of the passages changes: a third is new (held back from the first night), a third has another
text, a third is deleted. Passages with a qrel stay. Then the same steps run again. A third home publishes the passages
of the last night from nothing.

    seconds   wall time; cpu: seconds of this process and its children
    rows      passages that the step worked on: those embedded, or written to the collection
    p50       milliseconds of a search in the collection with one query, alternating between both releases
"""

from __future__ import annotations

import argparse
import logging
import random
import shutil
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from beir_files import read_rows, write_rows
from service import time_methods
from unmeasured_release import publish_unmeasured
from work_cost import cost_of

from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.statistics import build_reference
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.evaluate import evaluate_ranked
from tasks.core.evaluation.tune import tune_ranking
from tasks.core.ingest.ingest import ingest
from tasks.core.release.publish import prune
from tasks.core.release.vector_stores import open_publisher
from tasks.core.retrieval.bm25 import build_index
from tasks.core.retrieval.postings import build_postings, over_snapshot
from tasks.core.snapshot.reader import judged
from tasks.core.training.trainer import base_encoder

T = TypeVar("T")
SEARCHES = 100
TRAINING_QRELS = 1000  # nothing is trained; more would leave no passage without a qrel


class Step(NamedTuple):
    """The cost of a step."""

    name: str
    seconds: float
    cpu: float
    rows: int


class Made(NamedTuple):
    """What a night made."""

    steps: list[Step]
    snapshot: Snapshot
    encoder: Encoder
    embeddings: Embeddings
    release: Release


def main() -> None:
    """Run the nights and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--passages", type=int, default=0, help="passages to use; 0: all")
    arguments.add_argument("--share", type=float, default=0.01, help="share of the passages that changes")
    arguments.add_argument("--tokens", type=int, default=64, help="token limit of passages")
    arguments.add_argument("--index", default="FLAT", help="index of the collection")
    arguments.add_argument("--nights", type=int, default=1, help="refresh nights")
    arguments.add_argument("--home", type=Path, help="folder to keep the homes in; default: temporary")
    chosen = arguments.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-") as temporary:
        folder = chosen.home or Path(temporary)
        source = _Source(chosen.folder, folder / "source", chosen.passages, chosen.share, chosen.nights)
        settings = _settings(folder / "home", folder / "source", chosen)
        source.write()
        first = last = night(settings)
        for _ in range(chosen.nights):
            source.change()
            last = night(settings, last)
        _print(first, last)
        rebuilt = _rebuild(settings, folder / "rebuilt", last)
        _compare_searches(settings, folder / "rebuilt", last, rebuilt)


def _settings(home: Path, source: Path, chosen: argparse.Namespace) -> Settings:
    return Settings.model_validate(
        {
            "home": home,
            "data": {"format": "beir", "path": source, "min_lift": 0},
            "encoder": {"passage_tokens": chosen.tokens},
            "milvus": {"index": chosen.index, "min_recall": 0.8, "grace_minutes": 0},
        }
    )


class _Source:
    """A copy of a collection, with passages held back for later nights."""

    def __init__(self, original: Path, folder: Path, most: int, share: float, nights: int) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(original / "qrels", folder / "qrels")
        train = folder / "qrels" / "train.tsv"
        if train.exists():
            train.write_text("".join(train.read_text().splitlines(keepends=True)[: 1 + TRAINING_QRELS]))
        for name in ("queries.jsonl", "queries.jsonl.gz"):
            if (original / name).exists():
                shutil.copyfile(original / name, folder / name)
        answers = {line.split("\t")[1] for file in (folder / "qrels").iterdir() for line in file.open() if line.strip()}
        passages = list(read_rows(original / "corpus.jsonl"))
        self.folder, self.random = folder, random.Random(0)
        self.random.shuffle(passages)
        passages.sort(key=lambda passage: passage["_id"] not in answers)  # passages with a qrel first
        self.judged = sum(passage["_id"] in answers for passage in passages)
        passages = passages[: max(most, self.judged + 10)] if most else passages
        self.third = max(1, int(len(passages) * share / 3))
        held_back = min(len(passages) - self.judged, nights * self.third)
        self.present, self.later = passages[: len(passages) - held_back], passages[len(passages) - held_back :]

    def write(self) -> None:
        """Write the passages of tonight."""
        write_rows(self.folder / "corpus.jsonl", self.present)

    def change(self) -> None:
        """Add, change, and delete passages; then write them."""
        others = self.present[self.judged :]
        self.random.shuffle(others)
        kept = others[self.third :]
        for passage in kept[: self.third]:
            passage["text"] += " (revised)"
        self.present = [*self.present[: self.judged], *kept, *self.later[: self.third]]
        self.later = self.later[self.third :]
        self.write()


def night(settings: Settings, before: Made | None = None) -> Made:
    """Run the steps of a night that trains nothing; with `before`, of a refresh with the ranking of that night."""
    home, split, steps = settings.home, settings.evaluation.split, list[Step]()

    def timed(name: str, work: Callable[[], T], rows: Callable[[T], int] = lambda _: 0) -> T:
        cost, made = cost_of(work)
        steps.append(Step(name, cost.wall, cost.cpu, rows(made)))
        return made

    snapshot = timed("ingest", lambda: ingest(settings)[1], lambda made: made.rows)
    encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    load_encoder(encoder.path)
    embeddings = timed("embed", lambda: gather_shards(home, encoder, snapshot, 1), lambda made: made.embedded)
    mining = settings.mining
    if before is None:
        timed("index for BM25", lambda: build_index(home, snapshot, mining), lambda made: made.rows)
    postings = timed(
        "postings", lambda: build_postings(home, snapshot, mining.language, mining.stemmer), lambda made: made.rows
    )
    if before is None:
        ranking, _ = timed(
            "tune", lambda: tune_ranking(home, encoder, embeddings, snapshot, postings, mining, settings.evaluation)
        )
    else:
        ranking = over_snapshot(home, before.release.ranking, snapshot)
    figures = timed(
        f"evaluate {split}",
        lambda: [
            evaluate_ranked(home, name, encoder, embeddings, snapshot, way, settings.evaluation)
            for name, way in (("challenger", ranking), ("dense", DENSE))
        ],
    )
    timed("drift reference", lambda: build_reference(home, encoder, embeddings, snapshot))
    release = timed(
        "publish",
        lambda: publish_unmeasured(
            settings, encoder, embeddings, snapshot, ranking=ranking, metrics=figures[0].metrics
        ),
    )
    timed("prune", lambda: prune(settings))
    return Made(steps, snapshot, encoder, embeddings, release)


def _rebuild(settings: Settings, home: Path, last: Made) -> Release:
    """Publish the last night's passages in a home without a release, from the same artifacts."""
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    for name in ("snapshots", "encoders", "embeddings", "postings"):
        (home / name).symlink_to(settings.home.absolute() / name)
    alone = settings.model_copy(update={"home": home})
    cost, release = cost_of(
        lambda: publish_unmeasured(alone, last.encoder, last.embeddings, last.snapshot, ranking=last.release.ranking)
    )
    print(f"\npublish the last night from nothing: {cost.wall:.1f} s, {cost.cpu:.1f} s CPU")
    return release


def _print(first: Made, last: Made) -> None:
    print(f"{first.snapshot.rows:,} passages on the first night, {last.snapshot.rows:,} on the last\n")
    print("| step | first: seconds | cpu | rows | refresh: seconds | cpu | rows | share of cpu |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    refreshed = {step.name: step for step in last.steps}
    for before in first.steps:
        after = refreshed.get(before.name, Step(before.name, 0.0, 0.0, 0))  # a step that the refresh skips
        share = f"{100 * after.cpu / before.cpu:.1f} %" if before.cpu > 0 else ""
        cells = [f"{step.seconds:.1f} | {step.cpu:.1f} | {step.rows or ''}" for step in (before, after)]
        print(f"| {before.name} | {cells[0]} | {cells[1]} | {share} |")
    both = [sum(step.cpu for step in made.steps if step.name in ("embed", "publish")) for made in (first, last)]
    print(f"\nembed and publish: {both[0]:.1f} s CPU, refresh {both[1]:.1f} s: {100 * both[1] / both[0]:.1f} %")


def _compare_searches(settings: Settings, alone: Path, last: Made, rebuilt: Release) -> None:
    """Search both collections in turn with the same queries; print the median of each."""
    texts = judged(last.snapshot, settings.evaluation.split)["text"].to_pylist()[:SEARCHES]
    vectors = load_encoder(last.encoder.path).encode_queries(texts)
    with (
        closing(open_publisher(settings.home, settings.milvus).open(last.release.collection)) as refreshed,
        closing(open_publisher(alone, settings.milvus).open(rebuilt.collection)) as other,
    ):
        methods = {
            "refreshed": lambda vector: refreshed.search(vector[None], 10),
            "rebuilt": lambda vector: other.search(vector[None], 10),
        }
        seconds = time_methods(methods, vectors)
    p50 = {name: 1000 * float(np.median(taken)) for name, taken in seconds.items()}
    print(f"search p50: refreshed {p50['refreshed']:.1f} ms, rebuilt {p50['rebuilt']:.1f} ms")


if __name__ == "__main__":
    main()
