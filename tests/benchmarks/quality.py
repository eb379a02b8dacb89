"""Train one base model with different recipes for the same number of steps, and measure each on held-out queries.

    python tests/benchmarks/quality.py FOLDER [--systems in-batch bm25 ...] [--seeds 0 1 2] [--steps 100] [--home DIR]

FOLDER is a collection in BEIR layout with a train and a test split. All recipes use the same training pairs, batch
size, peak learning rate, token limits, and precision. Every encoder is measured by exact search over all passages. The
recipes:

    zero-shot      the base model without training
    in-batch       Nightshift, in-batch negatives only
    bm25           Nightshift, the best passages of BM25 as hard negatives; only judged positives are left out
    bm25-filtered  Nightshift, the candidates of BM25 after all filters
    blend-teacher  Nightshift, like bm25-filtered, and half of the loss learns the scores of BM25 and the base model
    two-rounds     Nightshift, half of the steps like bm25-filtered, half with candidates of that encoder in addition
    st-mnrl        sentence-transformers, MultipleNegativesRankingLoss
    st-mined       sentence-transformers, the same loss with mine_hard_negatives (relative margin 0.05)

With --home, finished results are kept in DIR, so an interrupted run can be resumed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from quality_peers import Peer

import nightshift as ns
from nightshift.retrieval import bm25_run
from tasks.core.base import receipts
from tasks.core.base.files import produce
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.mining.mine import NEGATIVES_FILE

MEASURES = ("ndcg@10", "mrr@10", "recall@100")


@dataclass(frozen=True)
class Trial:
    """The collection, the base model, and the settings that all recipes of one seed share."""

    collection: ns.Collection
    base: ns.Encoder
    steps: int
    tokens: int  # token limit of a passage
    seed: int
    training: dict[str, Any]  # settings of `[training]`

    def train(self, start: ns.Encoder, negatives: ns.Negatives, steps: int, **training: Any) -> ns.Encoder:
        """Train `start` for a number of steps."""
        settings = {**self.training, "max_steps": steps, **training}
        return ns.train(self.collection, negatives, encoder=start, progress=False, **settings)

    def mine(self, encoder: ns.Encoder, **mining: Any) -> ns.Negatives:
        """Mine negatives with all filters; `encoder` scores the candidates."""
        return ns.mine_negatives(self.collection, encoder=encoder, progress=False, seed=self.seed, **mining)


def main() -> None:
    """Run the recipes and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--systems", nargs="+", choices=list(RECIPES), default=list(RECIPES), help="recipes to run")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of each recipe")
    arguments.add_argument("--steps", type=int, default=100, help="training steps")
    arguments.add_argument("--batch", type=int, default=32, help="queries per step")
    arguments.add_argument("--rate", type=float, default=5e-5, help="peak learning rate")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--home", type=Path, help="folder for results and artifacts, to resume from")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = chosen.home or Path(scratch)
        common = (chosen.folder.resolve().name, chosen.steps, chosen.batch, chosen.rate, chosen.tokens)
        results = home / "results" / "-".join(map(str, common))
        for seed in chosen.seeds:
            trial = _prepare(chosen, home, seed)
            for system in chosen.systems:
                _measure(trial, system, results / f"{system}-{seed}.json")
        print(_table(results))


def _prepare(chosen: argparse.Namespace, home: Path, seed: int) -> Trial:
    collection = ns.read_beir(chosen.folder, home=home)
    training = {
        "batch_size": chosen.batch,
        "learning_rate": chosen.rate,
        "passage_tokens": 0,  # as many as in serving, for all recipes
        "epochs": 1000,
        "evaluate_every": 0,  # every recipe keeps the weights of its last step
        "seed": seed,
    }
    base = ns.load_encoder(collection, passage_tokens=chosen.tokens)
    return Trial(collection, base, chosen.steps, chosen.tokens, seed, training)


def _measure(trial: Trial, system: str, file: Path) -> None:
    if file.exists():
        return
    encoder, bm25 = (
        ns.evaluate(name, trial.collection, progress=False).receipt.metrics for name in (RECIPES[system](trial), "bm25")
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"system": encoder, "bm25": bm25}))


def _zero_shot(trial: Trial) -> ns.Encoder:
    return trial.base


def _in_batch(trial: Trial) -> ns.Encoder:
    return trial.train(trial.base, _unfiltered(trial), trial.steps, hard_negatives=0)


def _bm25(trial: Trial) -> ns.Encoder:
    return trial.train(trial.base, _unfiltered(trial), trial.steps)


def _bm25_filtered(trial: Trial) -> ns.Encoder:
    return trial.train(trial.base, _mine_bm25(trial), trial.steps)


def _blend_teacher(trial: Trial) -> ns.Encoder:
    negatives = _mine_bm25(trial, teacher={"source": "blend"})
    return trial.train(trial.base, negatives, trial.steps, loss="kl", contrastive_share=0.5)


def _two_rounds(trial: Trial) -> ns.Encoder:
    half = trial.train(trial.base, _mine_bm25(trial), trial.steps // 2)
    return trial.train(half, trial.mine(half), trial.steps - trial.steps // 2)


def _mine_bm25(trial: Trial, **mining: Any) -> ns.Negatives:
    return trial.mine(trial.base, shares={"bm25": 1.0, "dense": 0.0, "random": 0.0}, **mining)


def _unfiltered(trial: Trial) -> ns.Negatives:
    """Take the first passages of BM25 that are not judged positives, without any other filter."""
    collection, mining = trial.collection, MiningSettings(seed=trial.seed)
    run = bm25_run(collection, "train", mining)

    def build(folder: Path) -> dict[str, Any]:
        hits = pq.read_table(run.path / "run.parquet").to_pandas()
        judged = collection.qrels().select(["query_id", "passage_id"]).to_pandas()
        candidates = hits.merge(judged, how="left", on=["query_id", "passage_id"], indicator=True)
        candidates = candidates[candidates["_merge"] == "left_only"].sort_values(["query_id", "rank"])
        negatives = candidates.groupby("query_id").head(mining.per_query)
        columns = {name: pa.array(negatives[name].tolist(), pa.string()) for name in ("query_id", "passage_id")}
        pq.write_table(pa.table(columns), folder / NEGATIVES_FILE)
        counts = {"round": 0, "queries": run.queries, "starved": 0, "candidates": len(hits), "refused": {}}
        return {"rows": len(negatives), **counts, "parents": (collection.snapshot.digest, run.digest)}

    key = {"unfiltered": run.digest, "per_query": mining.per_query}
    return ns.Negatives(produce(collection.home, receipts.Negatives, key, build), collection)


def _st(name: str) -> Callable[[Trial], ns.Encoder]:
    def run(trial: Trial) -> ns.Encoder:
        peer = Peer(trial.collection, name, trial.tokens, trial.seed)
        return peer.encoder(peer.train(trial.steps, trial.training["batch_size"], trial.training["learning_rate"]))

    return run


RECIPES: dict[str, Callable[[Trial], ns.Encoder]] = {
    "zero-shot": _zero_shot,
    "in-batch": _in_batch,
    "bm25": _bm25,
    "bm25-filtered": _bm25_filtered,
    "blend-teacher": _blend_teacher,
    "two-rounds": _two_rounds,
    "st-mnrl": _st("mnrl"),
    "st-mined": _st("mined"),
}


def _table(results: Path) -> str:
    lines = [f"{results.name} (collection, steps, batch, rate, tokens)"]
    lines.append(f"{'recipe':<15}{'seeds':>6}" + "".join(f"{name:>12}" for name in MEASURES) + "   nDCG@10 by seed")
    bm25: dict[str, float] = {}
    for system in RECIPES:
        records = [json.loads(file.read_text()) for file in sorted(results.glob(f"{system}-[0-9]*.json"))]
        if records:
            bm25 = records[0]["bm25"]
            lines.append(_line(system, [record["system"] for record in records]))
    return "\n".join([*lines, _line("bm25 alone", [bm25])])


def _line(system: str, metrics: list[dict[str, float]]) -> str:
    means = "".join(f"{statistics.mean(of_seed[name] for of_seed in metrics):>12.4f}" for name in MEASURES)
    by_seed = " ".join(f"{of_seed[MEASURES[0]]:.4f}" for of_seed in metrics)
    return f"{system:<15}{len(metrics):>6}{means}   {by_seed}"


if __name__ == "__main__":
    main()
