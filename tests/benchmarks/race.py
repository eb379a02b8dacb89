"""Train with the same processor time, and measure each recipe on held-out queries.

    python tests/benchmarks/race.py FOLDER... --home DIR [--cpu-seconds 300 | --steps N] [--seeds 0 1 2]
                                    [--systems ...] [--pace]

FOLDER is a collection in BEIR layout with a train and a test split. Every recipe starts from all-MiniLM-L6-v2 and has
the same budget of processor seconds (user and system, all processes). Mining and selection on dev queries are charged.
The number of steps is what the budget pays for. It comes from the cost of mining and of ten steps, which is measured
once for a recipe and kept in DIR. With --pace, nothing else is done, so a quiet machine is only needed for that. With
--steps, every recipe takes N steps instead; its CPU-seconds are measured, and later seeds reuse vectors of the first.

    night           Nightshift with default settings: negatives of BM25, filters, early stopping on dev queries
    night-plain     the same without the margin filter, which needs the base model's vectors of all passages
    plain-half      `night-plain` with half the learning rate (5e-5)
    plain-long      `night-plain`, and training reads all 128 tokens of a passage
    plain-before    `night-plain` with both, the defaults of earlier versions
    plain-inbatch   `plain-before` without mined negatives, so with more steps
    night-dropout   `night` with dropout 0.1
    night-merge     `night` with `merge = "dev"`
    night-blend     `night`, half of the loss learns the scores of BM25 and the base model
    night-rounds    `night`, in two rounds: half of the steps, candidates of that encoder, the other half
    mnrl            sentence-transformers, MultipleNegativesRankingLoss, dropout of the model (0.1)
    mnrl-0          the same without dropout
    mnrl-0-double   `mnrl-0` with twice the learning rate, as `night` has
    mined           in addition mine_hard_negatives (relative margin 0.05), dropout of the model
    mined-0         the same without dropout

`+merge` is the same trained model, averaged with the base model. The table has nDCG@10 of exact dense search, and of
the ranking that a release of this encoder would serve (tuned with BM25). It ends with the paired difference between
`night` and the best recipe of sentence-transformers: the mean over seeds and queries, and its 95 % interval from a
bootstrap over both. Finished results are kept in DIR, so an interrupted race can be resumed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from hybrid import measure
from quality_peers import Peer
from work_cost import cost_of

import nightshift as ns

TOKENS, BATCH, RATE, PACE_STEPS, DRAWS = 128, 32, 5e-5, 10, 10_000
PEERS = {  # recipe, dropout, learning rate
    "mnrl": ("mnrl", None, RATE),
    "mnrl-0": ("mnrl", 0.0, RATE),
    "mnrl-0-double": ("mnrl", 0.0, 2 * RATE),
    "mined": ("mined", None, RATE),
    "mined-0": ("mined", 0.0, RATE),
}
BM25_ALONE = {"bm25": 1.0, "dense": 0.0, "random": 0.0}  # as in the first round of a night
BEFORE = {"learning_rate": RATE, "passage_tokens": 0}
NIGHTS: dict[str, dict[str, Any]] = {
    "night": {},
    "night-plain": {"plain": True},
    "plain-half": {"plain": True, "training": {"learning_rate": RATE}},
    "plain-long": {"plain": True, "training": {"passage_tokens": 0}},
    "plain-before": {"plain": True, "training": BEFORE},
    "plain-inbatch": {"plain": True, "training": {"hard_negatives": 0, **BEFORE}},
    "night-dropout": {"training": {"dropout": 0.1}},
    "night-merge": {"training": {"merge": "dev"}},
    "night-blend": {
        "mining": {"teacher": {"source": "blend"}},
        "training": {"loss": "kl", "contrastive_share": 0.5},
    },
    "night-rounds": {"rounds": 2},
}
SYSTEMS = (*NIGHTS, *PEERS)


def main() -> None:
    """Run the races and print a table for each collection."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folders", type=Path, nargs="+", help="collections in BEIR layout")
    arguments.add_argument("--cpu-seconds", type=float, default=300, help="budget of each recipe and seed")
    arguments.add_argument("--steps", type=int, default=0, help="steps of each recipe, without a budget; 0: a budget")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of each recipe")
    arguments.add_argument("--systems", nargs="+", choices=SYSTEMS, default=["night", *PEERS], help="recipes to run")
    arguments.add_argument("--pace", action="store_true", help="only measure what mining and a step cost")
    arguments.add_argument("--home", type=Path, required=True, help="folder for results and artifacts")
    chosen = arguments.parse_args()
    for folder in chosen.folders:
        name = folder.resolve().name
        budget = f"{chosen.steps}-steps" if chosen.steps else f"{chosen.cpu_seconds:.0f}"
        results = chosen.home / "results" / f"{name}-{budget}"
        results.mkdir(parents=True, exist_ok=True)
        for system in chosen.systems:
            home = chosen.home / f"{name}-{budget}-{system}"
            if not list(results.glob(f"{system}.*")):
                shutil.rmtree(home, ignore_errors=True)  # the first cost includes what later seeds reuse
            for seed in chosen.seeds[:1] if chosen.pace else chosen.seeds:
                if chosen.pace or not (results / f"{system}.{seed}.json").exists():
                    _run(ns.read_beir(folder, home=home), system, seed, results, chosen)
            shutil.rmtree(home, ignore_errors=True)
        if not chosen.pace:
            print(_table(name, results), flush=True)


def _run(collection: ns.Collection, system: str, seed: int, results: Path, chosen: argparse.Namespace) -> None:
    """Run a recipe with a seed, and write its results; with --pace, only what it costs."""
    recipe = _recipe(collection, system, seed)
    steps, mining, pace = chosen.steps, 0.0, 0.0
    if not chosen.steps:
        steps, mining, pace = _plan(recipe, chosen.cpu_seconds, results / f"{system}.pace")
    costs = f"mining and selection {mining:.0f} s, {pace:.2f} s a step, {steps} steps"
    print(f"{results.name} {system}: {costs}", flush=True)
    if chosen.pace:
        return
    spent, encoders = cost_of(partial(recipe.encoders, steps))
    total = spent.cpu if chosen.steps else mining + steps * pace
    for suffix, encoder in encoders.items():
        record = _record(collection, encoder, steps, mining, total)
        (results / f"{system}{suffix}.{seed}.json").write_text(json.dumps(record))


@dataclass
class Night:
    """Nightshift with default settings, except those of a variant."""

    collection: ns.Collection
    seed: int
    mining: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    rounds: int = 1
    plain: bool = False  # no margin filter

    def __post_init__(self) -> None:
        self.base = ns.load_encoder(self.collection, passage_tokens=TOKENS)

    def mine(self) -> None:
        """Mine the negatives of the first round."""
        self.negatives = self._mined(None if self.plain else self.base, shares=BM25_ALONE)

    def train(self, steps: int, **changed: Any) -> ns.Encoder:
        """Train the base model with a number of steps, without dev queries."""
        return self._trained(self.base, steps, **{"evaluate_every": 0, **changed})

    def train_selecting(self, steps: int) -> ns.Encoder:
        """Train in all rounds, and keep the best weights on dev queries."""
        encoder = self._trained(self.base, steps // self.rounds)
        for _ in range(1, self.rounds):
            self.negatives = self._mined(encoder)
            encoder = self._trained(encoder, steps // self.rounds)
        return encoder

    def encoders(self, steps: int) -> dict[str, ns.Encoder]:
        """Mine and train; return the encoder."""
        self.mine()
        return {"": self.train_selecting(steps)}

    def _mined(self, encoder: ns.Encoder | None, **mining: Any) -> ns.Negatives:
        settings = {"seed": self.seed, **self.mining, **mining}
        return ns.mine_negatives(self.collection, encoder=encoder, progress=False, **settings)

    def _trained(self, start: ns.Encoder, steps: int, **changed: Any) -> ns.Encoder:
        settings = {"epochs": 1000, "max_steps": max(1, steps), "seed": self.seed, **self.training, **changed}
        return ns.train(self.collection, self.negatives, encoder=start, progress=False, **settings)


class PeerRecipe:
    """A recipe of sentence-transformers."""

    def __init__(self, collection: ns.Collection, system: str, seed: int) -> None:
        recipe, dropout, self.rate = PEERS[system]
        self.peer = Peer(collection, recipe, TOKENS, seed, dropout)

    def mine(self) -> None:
        """Mine the negatives, if the recipe does."""
        _ = self.peer.pairs

    def train(self, steps: int) -> Path:
        """Train with a number of steps."""
        return self.peer.train(steps, BATCH, self.rate)

    train_selecting = train

    def encoders(self, steps: int) -> dict[str, ns.Encoder]:
        """Mine and train; return the encoder, and its average with the base model."""
        folder = self.train(steps)
        return {"": self.peer.encoder(folder), "+merge": self.peer.encoder(self.peer.merge_with_base(folder))}


def _recipe(collection: ns.Collection, system: str, seed: int) -> Night | PeerRecipe:
    if system in NIGHTS:
        return Night(collection, seed, **NIGHTS[system])
    return PeerRecipe(collection, system, seed)


def _plan(recipe: Night | PeerRecipe, budget: float, file: Path) -> tuple[int, float, float]:
    """Return the steps that the budget pays for, and CPU-seconds of mining (with selection) and of a step.

    The time of a step is the difference of a long and a short training, without their start and saving.
    """
    if not file.exists():
        mining, _ = cost_of(recipe.mine)
        (short, _), (long, _) = cost_of(lambda: recipe.train(1)), cost_of(lambda: recipe.train(1 + PACE_STEPS))
        selected, _ = cost_of(lambda: recipe.train_selecting(1))
        fixed = mining.cpu + max(0.0, selected.cpu - short.cpu)
        file.write_text(json.dumps([fixed, (long.cpu - short.cpu) / PACE_STEPS]))
    fixed, pace = json.loads(file.read_text())
    return max(1, int((budget - fixed) / pace)), fixed, pace


def _record(collection: ns.Collection, encoder: ns.Encoder, steps: int, mining: float, total: float) -> Any:
    evaluation = ns.evaluate(encoder, collection, progress=False)
    ranked = measure(collection, encoder, "race")
    return {
        "queries": evaluation.per_query["nDCG@10"].to_pylist(),
        "dense": evaluation["nDCG@10"],
        "tuned": ranked.tuned,
        "bm25": ranked.bm25,
        "steps": steps,
        "cpu_seconds": total,
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
    """Compare `night` with the best recipe of sentence-transformers, with a bootstrap over seeds and queries."""
    night, others = records.get("night"), {name: records[name] for name in records if name not in NIGHTS}
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
