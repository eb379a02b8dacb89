"""Quality of hybrid ranking: the encoder, BM25, reciprocal rank fusion, and the tuned weighted sum.

    python tests/benchmarks/hybrid.py FOLDER... [--seeds 0 1 2] [--steps 50] [--home DIR]

FOLDER is a collection in BEIR layout with train and test queries. For the base model, and for an encoder trained with
each seed on hard negatives of BM25, it prints nDCG@10 of the test queries by exact search over all passages. The weight
is chosen on dev queries as in a night. Reciprocal rank fusion (k = 60) merges the same two top-100 rankings. With
--home, DIR/NAME keeps the artifacts of a collection, so an interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

import nightshift as ns
from tasks.core.base.ranking import Ranking
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import encoder_arms, evaluate_ranked
from tasks.core.evaluation.measures import means, per_query
from tasks.core.evaluation.tune import tune_ranking
from tasks.core.retrieval.arms import Arms
from tasks.core.retrieval.postings import build_postings

MINING, EVALUATION = MiningSettings(), EvaluationSettings()
CONSTANT = 60  # of reciprocal rank fusion


class Result(NamedTuple):
    """nDCG@10 of each ranking, and the weight of the encoder in the tuned one."""

    collection: str
    encoder: str
    dense: float
    bm25: float
    fusion: float
    tuned: float
    weight: float


def main() -> None:
    """Measure every collection and encoder, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", nargs="+", type=Path, help="collections in BEIR layout")
    arguments.add_argument("--seeds", nargs="*", type=int, default=[0, 1, 2], help="seeds of mining and training")
    arguments.add_argument("--steps", type=int, default=50, help="training steps")
    arguments.add_argument("--home", type=Path, help="folder for artifacts, to resume from")
    chosen = arguments.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as scratch:
        for folder in chosen.folders:
            for result in _results(folder, (chosen.home or Path(scratch)) / folder.resolve().name, chosen):
                results.append(result)
                print(_line(result), flush=True)
    worst = min(result.tuned - max(result.dense, result.bm25) for result in results)
    gain = statistics.mean(result.tuned - result.fusion for result in results)
    print(f"tuned, compared with the better retriever: {worst:+.4f} at worst")
    print(f"tuned, compared with reciprocal rank fusion: {gain:+.4f} on average")


def _results(folder: Path, home: Path, chosen: argparse.Namespace) -> Iterator[Result]:
    collection = ns.read_beir(folder, home=home)
    base = ns.load_encoder(collection)
    yield measure(collection, base, "base")
    for seed in chosen.seeds:
        negatives = ns.mine_negatives(collection, encoder=base, progress=False, seed=seed)
        steps = {"max_steps": chosen.steps, "epochs": 1000, "evaluate_every": 0, "seed": seed}
        recipe = {"learning_rate": 5e-5, "passage_tokens": 0}
        encoder = ns.train(collection, negatives, encoder=base, progress=False, **steps, **recipe)
        yield measure(collection, encoder, f"{chosen.steps} steps, seed {seed}")


def measure(collection: ns.Collection, encoder: ns.Encoder, name: str) -> Result:
    home, snapshot, receipt = collection.home, collection.snapshot, encoder.receipt
    vectors = gather_shards(home, receipt, snapshot, 1)
    postings = build_postings(home, snapshot, MINING.language, MINING.stemmer)
    ranking, _ = tune_ranking(home, receipt, vectors, snapshot, postings, MINING, EVALUATION)

    def ndcg(weight: float) -> float:
        weighted = ranking.model_copy(update={"weight": weight})
        return evaluate_ranked(home, name, receipt, vectors, snapshot, weighted, EVALUATION).metrics["ndcg@10"]

    arms = Arms(encoder_arms(home, receipt, vectors, snapshot, EVALUATION.split, ranking))
    fused = means(per_query(_reciprocal_rank(arms), collection.qrels(EVALUATION.split)))["ndcg@10"]
    return Result(collection.home.name, name, ndcg(1), ndcg(0), fused, ndcg(ranking.weight), ranking.weight)


def _reciprocal_rank(arms: Arms) -> pa.Table:
    """Merge both rankings by Σ 1 / (60 + rank). Returns a run: query_id, passage_id, rank."""
    scores = np.zeros(len(arms.query))
    for weight in (1.0, 0.0):
        order = arms.order(Ranking(weight=weight))
        query = arms.query[order]
        scores[order] += 1 / (CONSTANT + 1 + np.arange(len(order)) - np.searchsorted(query, query))
    order = np.lexsort((arms.row, -scores, arms.query))
    query = arms.query[order]
    rank = np.arange(len(order)) - np.searchsorted(query, query) + 1
    table: pa.Table = arms.table.take(pa.array(order)).select(["query_id", "passage_id"])
    return table.append_column("rank", pa.array(rank))


def _line(result: Result) -> str:
    figures = f"dense {result.dense:.4f}  BM25 {result.bm25:.4f}  RRF {result.fusion:.4f}  tuned {result.tuned:.4f}"
    return f"{result.collection:<14} {result.encoder:<18} {figures}  (weight {result.weight:.2f})"


if __name__ == "__main__":
    main()
