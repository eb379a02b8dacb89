"""Train on the clicks of simulated users, with and without correction for position, and on true judgments.

    python tests/benchmarks/clicks.py FOLDER [--sessions 20000] [--queries 2000] [--steps 80] [--home DIR] [--seed 0]

FOLDER is a collection in BEIR layout with a train and a test split. Users ask some of the training queries and see ten
passages, ranked by one of two settings of BM25, as after a change of release. They look at position k with probability
1/k^eta; they click a relevant passage that they look at, and an irrelevant one with probability `--noise`. Three
encoders are trained from the base model for the same number of steps, with in-batch negatives:

    corrected    pairs from the clicks, with propensities that are estimated from the log
    uncorrected  pairs from the same clicks, with [data.clicks] propensity = [1.0]
    judgments    the true judgments of the same queries

All are measured on the true judgments of the test split, by exact search over all passages. The goal: `corrected` keeps
80 % of the gain of `judgments` over the base model. With --home, an interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from beir_files import read_positives, read_rows, write_qrels, write_rows

from tasks.core.base.files import produce
from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Encoder, Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.hardware import has_bf16
from tasks.core.evaluation.evaluate import evaluate_ranked
from tasks.core.ingest.ingest import ingest
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import pair_weights, qrels, queries
from tasks.core.training.trainer import base_encoder, train

DEPTH = 10  # passages on a result page
BM25 = ({"k1": 0.9, "b": 0.4}, {"k1": 1.6, "b": 0.9})  # the two rankings
GOAL = 0.8
START = 1_760_000_000  # seconds since 1970


def main() -> None:
    """Write the click log, train the three encoders, and print their nDCG@10."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--sessions", type=int, default=20_000, help="result pages, one for each session")
    arguments.add_argument("--queries", type=int, default=2_000, help="training queries that users ask")
    arguments.add_argument("--steps", type=int, default=80, help="training steps of 32 pairs")
    arguments.add_argument("--eta", type=float, default=1.0, help="users look at position k with probability 1/k^eta")
    arguments.add_argument("--noise", type=float, default=0.1, help="probability of a click on an irrelevant passage")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--seed", type=int, default=0, help="seed of the users and of the training")
    arguments.add_argument("--home", type=Path, help="folder for artifacts, to resume from")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        _compare(chosen, chosen.home or Path(scratch))


def _compare(chosen: argparse.Namespace, home: Path) -> None:
    rng = np.random.default_rng(chosen.seed)
    positives = read_positives(chosen.folder)
    texts = {row["_id"]: row["text"] for row in read_rows(chosen.folder / "queries.jsonl")}
    trained = sorted({line.split("\t")[0] for line in _lines(chosen.folder / "qrels" / "train.tsv")})
    searched = rng.permutation(trained)[: chosen.queries].tolist()
    labeled = _write_collection(chosen.folder, home / "labeled", searched, positives)
    held_out = _write_collection(chosen.folder, home / "held-out", [], positives)
    truth = _snapshot(chosen, home, [{"name": "labels", "format": "beir", "path": labeled}])
    rankings = _rankings(chosen, home, truth)
    log = home / "clicks.jsonl"
    write_rows(log, _pages(chosen, rng, [(query, texts[query]) for query in searched], rankings, positives))
    sources = [
        {"name": "labels", "format": "beir", "path": held_out},
        {"name": "log", "format": "clicks", "path": log},
    ]
    relevant = {(texts[query], passage) for query in searched for passage in positives[query]}
    figures = {"base": _measure(chosen, home, truth, None), "judgments": _measure(chosen, home, truth, "judgments")}
    for name, clicks in (("corrected", {}), ("uncorrected", {"propensity": [1.0]})):
        snapshot = _snapshot(chosen, home, sources, clicks)
        print(f"{name}: {_precision(snapshot, relevant)}", flush=True)
        figures[name] = _measure(chosen, home, snapshot, name)
    print(_table(figures))


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()[1:]


def _write_collection(folder: Path, to: Path, searched: list[str], positives: dict[str, set[str]]) -> Path:
    """Write the collection with only the training pairs of the queries `searched`; the held-out splits stay."""
    (to / "qrels").mkdir(parents=True, exist_ok=True)
    for name in ("corpus.jsonl", "queries.jsonl"):
        write_rows(to / name, read_rows(folder / name))
    for split in ("dev", "test"):
        if (folder / "qrels" / f"{split}.tsv").exists():
            (to / "qrels" / f"{split}.tsv").write_bytes((folder / "qrels" / f"{split}.tsv").read_bytes())
    write_qrels(to, "train", ((query, passage) for query in searched for passage in sorted(positives[query])))
    return to


def _settings(chosen: argparse.Namespace, home: Path, data: dict[str, Any]) -> Settings:
    training = {
        "batch_size": 32,
        "learning_rate": 5e-5,
        "passage_tokens": 0,
        "epochs": 1000,
        "max_steps": chosen.steps,
        "hard_negatives": 0,
        "evaluate_every": 0,
        "seed": chosen.seed,
    }
    return Settings.model_validate(
        {
            "home": home,
            "data": {**data, "max_refused": 0.5, "compare": False},
            "encoder": {"passage_tokens": chosen.tokens},
            "embedding": {"precision": "bf16" if has_bf16() else "fp32"},
            "training": training,
        }
    )


def _snapshot(
    chosen: argparse.Namespace, home: Path, sources: list[dict[str, Any]], clicks: dict[str, Any] | None = None
) -> Snapshot:
    ingested, snapshot = ingest(_settings(chosen, home, {"sources": sources, "clicks": clicks or {}}))
    for note in ingested.notes:
        print(note, flush=True)
    return snapshot


def _rankings(chosen: argparse.Namespace, home: Path, snapshot: Snapshot) -> list[dict[str, list[str]]]:
    """Return the passages of each training query in each ranking, by id in the collection's own files."""
    rankings: list[dict[str, list[str]]] = []
    for setting in BM25:
        mining = _settings(chosen, home, {}).mining.model_copy(update=setting)
        run = search_bm25(home, build_index(home, snapshot, mining), queries(snapshot, "train"), DEPTH, mining)
        hits = pq.read_table(run.path / "run.parquet", columns=["query_id", "passage_id", "rank"])
        ranked: dict[str, list[str]] = {}
        for hit in hits.sort_by([("query_id", "ascending"), ("rank", "ascending")]).to_pylist():
            ranked.setdefault(hit["query_id"].partition(":")[2], []).append(hit["passage_id"])
        rankings.append(ranked)
    return rankings


def _pages(
    chosen: argparse.Namespace,
    rng: np.random.Generator,
    searched: list[tuple[str, str]],
    rankings: list[dict[str, list[str]]],
    positives: dict[str, set[str]],
) -> Iterator[dict[str, Any]]:
    """Yield the result pages. The n-th query occurs in proportion to 1/√n."""
    popularity = 1 / np.sqrt(np.arange(1, len(searched) + 1))
    drawn = rng.choice(len(searched), chosen.sessions, p=popularity / popularity.sum())
    for session, number in enumerate(drawn.tolist()):
        query, text = searched[number]
        shown = rankings[int(rng.integers(len(rankings)))].get(query, [])
        if not shown:
            continue
        looks = rng.random(len(shown)) < 1 / np.arange(1, len(shown) + 1) ** chosen.eta
        noise = rng.random(len(shown)) < chosen.noise
        clicked = [
            passage
            for passage, look, mistake in zip(shown, looks, noise, strict=True)
            if look and (mistake or passage in positives[query])
        ]
        yield {"session": f"s{session}", "time": START + session, "query": text, "shown": shown, "clicked": clicked}


def _precision(snapshot: Snapshot, relevant: set[tuple[str, str]]) -> str:
    """Return how many training pairs are true, counted alone and by weight."""
    pairs = qrels(snapshot, "train")
    text = dict(zip(*(queries(snapshot)[name].to_pylist() for name in ("query_id", "text")), strict=True))
    ids = zip(pairs["query_id"].to_pylist(), pairs["passage_id"].to_pylist(), strict=True)
    true = np.array([(text[query], passage) in relevant for query, passage in ids])
    weights = pair_weights(pairs)
    share = float((true * weights).sum() / weights.sum())
    return (
        f"{len(true):,} pairs, {true.mean():.1%} true, {share:.1%} by weight, {true.sum() / len(relevant):.1%} of all"
    )


def _measure(chosen: argparse.Namespace, home: Path, snapshot: Snapshot, name: str | None) -> float:
    """Return nDCG@10 on the test split of the base model, or of the model trained on the snapshot."""
    settings = _settings(chosen, home, {})
    encoder: Encoder = base_encoder(home, snapshot, settings.encoder, settings.embedding)
    if name is not None:
        encoder = train(home, encoder, snapshot, _no_negatives(home), settings)
    embeddings = gather_shards(home, encoder, snapshot, 1)
    evaluation = evaluate_ranked(home, "challenger", encoder, embeddings, snapshot, DENSE, settings.evaluation)
    value = float(evaluation.metrics["ndcg@10"])
    print(f"{name or 'base'}: nDCG@10 {value:.4f}", flush=True)
    return value


def _no_negatives(home: Path) -> Negatives:
    def build(folder: Path) -> dict[str, Any]:
        empty = pa.array([], pa.string())
        pq.write_table(pa.table({"query_id": empty, "passage_id": empty}), folder / "negatives.parquet")
        return {"rows": 0, "round": 0, "queries": 0, "starved": 0, "candidates": 0, "refused": {}}

    return produce(home, Negatives, {"none": True}, build)


def _table(figures: dict[str, float]) -> str:
    gain = figures["judgments"] - figures["base"]
    lines = [f"{'trained on':<14}{'nDCG@10':>10}{'gain':>10}{'of the gain of judgments':>28}"]
    for name, value in figures.items():
        lines.append(
            f"{name:<14}{value:>10.4f}{value - figures['base']:>+10.4f}{(value - figures['base']) / gain:>28.0%}"
        )
    kept = (figures["corrected"] - figures["base"]) / gain
    lines.append(f"goal: at least {GOAL:.0%} with correction; {'met' if kept >= GOAL else 'missed'}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
