"""Train with the same processor time, and measure each recipe on held-out queries.

    python tests/benchmarks/race.py FOLDER... [--cpu-seconds 300] [--seeds 0 1 2] [--systems night mined ...] --home DIR

FOLDER is a collection in BEIR layout with a train and a test split. Every recipe starts from all-MiniLM-L6-v2 and has
the same budget of processor seconds (user and system, all processes). Mining, selection on dev queries, and merging are
charged. The number of steps is what the budget pays for, from the measured time of ten steps, which is not charged:

    night         Nightshift with default settings: negatives of BM25, filters, early stopping on dev queries
    mnrl          sentence-transformers, MultipleNegativesRankingLoss, dropout of the model (0.1)
    mnrl-0        the same without dropout
    mined         in addition mine_hard_negatives (relative margin 0.05), dropout of the model
    mined-0       the same without dropout

`+merge` is the same trained model, averaged with the base model. The table has nDCG@10 of exact dense search, and of
the ranking that a release of this encoder would serve (tuned with BM25). It ends with the paired difference between
`night` and the best other recipe: the mean over seeds and queries, and its 95 % interval from a bootstrap over both.
Finished results are kept in DIR, so an interrupted race can be resumed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hybrid import measure
from quality_peers import Peer
from work_cost import cost_of

import nightshift as ns

TOKENS, BATCH, RATE, PACE_STEPS, DRAWS = 128, 32, 5e-5, 10, 10_000
PEERS = {
    "mnrl": ("mnrl", None),
    "mnrl-0": ("mnrl", 0.0),
    "mined": ("mined", None),
    "mined-0": ("mined", 0.0),
}
SYSTEMS = ("night", *PEERS)


def main() -> None:
    """Run the races and print a table for each collection."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="+", help="collections in BEIR layout")
    arguments.add_argument("--cpu-seconds", type=float, default=300, help="budget of each recipe and seed")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of each recipe")
    arguments.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), help="recipes to run")
    arguments.add_argument("--home", type=Path, required=True, help="folder for results and artifacts")
    chosen = arguments.parse_args()
    for folder in chosen.folders:
        name = folder.resolve().name
        results = chosen.home / "results" / f"{name}-{chosen.cpu_seconds:.0f}"
        results.mkdir(parents=True, exist_ok=True)
        for seed in chosen.seeds:
            for system in chosen.systems:
                if not (file := results / f"{system}.{seed}.json").exists():
                    home = chosen.home / f"{name}-{system}-{seed}"
                    shutil.rmtree(home, ignore_errors=True)  # every recipe pays for all it uses
                    collection = ns.read_beir(folder, home=home)
                    run = _run_night if system == "night" else _run_peer
                    for suffix, record in run(collection, system, seed, chosen.cpu_seconds).items():
                        file.with_name(f"{system}{suffix}.{seed}.json").write_text(json.dumps(record))
        print(_table(name, results), flush=True)


def _run_night(collection: ns.Collection, system: str, seed: int, budget: float) -> dict[str, Any]:
    base = ns.load_encoder(collection, passage_tokens=TOKENS)

    def train(negatives: ns.Negatives, steps: int, evaluate_every: int) -> ns.Encoder:
        settings = {"epochs": 1000, "max_steps": steps, "evaluate_every": evaluate_every, "seed": seed}
        return ns.train(collection, negatives, encoder=base, progress=False, **settings)

    mining, negatives = cost_of(lambda: ns.mine_negatives(collection, encoder=base, progress=False, seed=seed))
    pace = _pace(lambda steps: train(negatives, steps, evaluate_every=0))
    steps = _steps(budget - mining.cpu, pace)
    training, encoder = cost_of(lambda: train(negatives, steps, evaluate_every=100))
    return {"": _record(collection, encoder, steps, mining.cpu, training.cpu)}


def _run_peer(collection: ns.Collection, system: str, seed: int, budget: float) -> dict[str, Any]:
    recipe, dropout = PEERS[system]
    peer = Peer(collection, recipe, TOKENS, seed, dropout)
    mining, _ = cost_of(lambda: peer.pairs)
    pace = _pace(lambda steps: peer.train(steps, BATCH, RATE))
    steps = _steps(budget - mining.cpu, pace)
    training, folder = cost_of(lambda: peer.train(steps, BATCH, RATE))
    merging, merged = cost_of(lambda: peer.merge_with_base(folder))
    return {
        "": _record(collection, peer.encoder(folder), steps, mining.cpu, training.cpu),
        "+merge": _record(collection, peer.encoder(merged), steps, mining.cpu, training.cpu + merging.cpu),
    }


def _pace(train: Callable[[int], Any]) -> float:
    """Return processor seconds per step, without start and saving: the difference of a long and a short training."""
    (short, _), (long, _) = cost_of(lambda: train(1)), cost_of(lambda: train(1 + PACE_STEPS))
    return (long.cpu - short.cpu) / PACE_STEPS


def _steps(budget: float, pace: float) -> int:
    return max(1, int(budget / pace))


def _record(collection: ns.Collection, encoder: ns.Encoder, steps: int, mining: float, training: float) -> Any:
    evaluation = ns.evaluate(encoder, collection, progress=False)
    ranked = measure(collection, encoder, "race")
    return {
        "queries": evaluation.per_query["nDCG@10"].to_pylist(),
        "dense": evaluation["nDCG@10"],
        "tuned": ranked.tuned,
        "bm25": ranked.bm25,
        "steps": steps,
        "cpu_seconds": mining + training,
        "mining_seconds": mining,
    }


def _table(name: str, results: Path) -> str:
    records: dict[str, dict[int, Any]] = {}
    for file in sorted(results.glob("*.json")):
        system, seed, _ = file.name.rsplit(".", 2)
        records.setdefault(system, {})[int(seed)] = json.loads(file.read_text())
    lines = [
        f"{name}: BM25 {next(iter(next(iter(records.values())).values()))['bm25']:.4f}",
        "| recipe | seeds | steps | CPU s | of it mining | dense nDCG@10 | tuned nDCG@10 | dense by seed |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for system, by_seed in records.items():
        columns = ("steps", "cpu_seconds", "mining_seconds", "dense", "tuned")
        means = [statistics.mean(record[column] for record in by_seed.values()) for column in columns]
        figures = f"{means[0]:.0f} | {means[1]:.0f} | {means[2]:.0f} | {means[3]:.4f} | {means[4]:.4f}"
        seeds = " ".join(f"{by_seed[seed]['dense']:.4f}" for seed in sorted(by_seed))
        lines.append(f"| {system} | {len(by_seed)} | {figures} | {seeds} |")
    return "\n".join([*lines, *_difference(records)])


def _difference(records: dict[str, dict[int, Any]]) -> list[str]:
    """Compare `night` with the best other recipe, with a bootstrap over seeds and queries."""
    night, others = records.get("night"), {name: runs for name, runs in records.items() if name != "night"}
    if not night or not others:
        return []
    best = max(others, key=lambda system: statistics.mean(record["dense"] for record in others[system].values()))
    seeds = sorted(set(night) & set(others[best]))
    differences = np.array([night[seed]["queries"] for seed in seeds])
    differences -= np.array([others[best][seed]["queries"] for seed in seeds])  # float64 (seeds, queries)
    random = np.random.default_rng(0)
    count, queries = differences.shape
    draws = [
        differences[random.integers(0, count, count)][:, random.integers(0, queries, queries)].mean()
        for _ in range(DRAWS)
    ]
    low, high = np.percentile(draws, [2.5, 97.5])
    return [f"night, compared with {best}: {differences.mean():+.4f} ({low:+.4f} to {high:+.4f})"]


if __name__ == "__main__":
    main()
