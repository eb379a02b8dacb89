"""Compare training the query encoder, the query encoder and a passage map, and everything: quality, and time to serve.

    python tests/benchmarks/derived.py FOLDER [--systems query query+map full] [--seeds 0 1 2] [--steps 100]
                                       [--passages N] [--live] [--home DIR]

FOLDER is a collection in BEIR layout with a train and a test split. All systems use the same negatives, steps, batch
size, and learning rate of the encoder. Every encoder is measured by exact search over all passages:

    base         the base model, without training
    query        only the query encoder ([encoder] train = "query"): passages keep their vectors
    query+map    the query encoder and a linear map of the passage vectors, which are derived from those of the base
    rank R       the same with [encoder] map_rank = --rank
    hidden H     the same with [encoder] map_hidden = --hidden
    many         query+map with --many hard negatives per query, which cost one matrix product
    both         `hidden` with --many hard negatives per query
    full         all weights of one encoder for queries and passages (the default)
    separate     all weights of two separate encoders

`gain kept` is the gain over the base model as a share of the gain of `full`. With --live, each system of the first seed
is also made the serving release of an embedded Milvus; the seconds of its vectors and of the publication are shown.
Vectors of the base model exist before, as in a night. With --home, finished results are kept in DIR.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from beir_files import cut_collection
from unmeasured_release import publish_unmeasured

import nightshift as ns
from nightshift.retrieval import embed
from tasks.core.base.settings import Settings

MAP = {"shared": False, "train": "query+map"}
MEASURE = "nDCG@10"


@dataclass(frozen=True)
class System:
    """A way to train: its settings of `[encoder]` and `[training]`."""

    encoder: dict[str, Any]
    training: dict[str, Any]


def main() -> None:
    """Train and measure the systems, and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--systems", nargs="+", default=["query", "query+map", "full"], help="systems to train")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="seeds of each system")
    arguments.add_argument("--steps", type=int, default=100, help="training steps")
    arguments.add_argument("--batch", type=int, default=32, help="queries per step")
    arguments.add_argument("--rate", type=float, default=5e-5, help="peak learning rate of the encoders")
    arguments.add_argument("--map-rate", type=float, help="peak learning rate of the map; default: that of Nightshift")
    arguments.add_argument("--rank", type=int, default=64, help="rank of the map of the system `rank`")
    arguments.add_argument("--hidden", type=int, default=256, help="hidden units of the map of the system `hidden`")
    arguments.add_argument("--many", type=int, default=7, help="hard negatives per query of the system `many`")
    arguments.add_argument("--passages", type=int, default=0, help="passages to use, drawn; 0: all")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--live", action="store_true", help="measure the time until each system serves")
    arguments.add_argument("--home", type=Path, help="folder for results and artifacts, to resume from")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = chosen.home or Path(scratch)
        folder = chosen.folder
        if chosen.passages:
            folder = home / "source" / folder.resolve().name
            cut_collection(chosen.folder, folder, chosen.passages)
        collection = ns.read_beir(folder, home=home)
        base = ns.evaluate(ns.load_encoder(collection, passage_tokens=chosen.tokens), collection, progress=False)
        print(f"base {MEASURE} {base[MEASURE]:.4f}", flush=True)
        scores: dict[str, list[float]] = {}
        for name in chosen.systems:
            for seed in chosen.seeds:
                encoder, seconds = _train(collection, _systems(chosen)[name], chosen, seed)
                if chosen.live and seed == chosen.seeds[0]:
                    print(f"{name:<12}{_live(collection, encoder)}", flush=True)
                score = ns.evaluate(encoder, collection, progress=False)[MEASURE]
                scores.setdefault(name, []).append(score)
                print(f"{name:<12}seed {seed}  {MEASURE} {score:.4f}  trained in {seconds:.0f} s", flush=True)
        print(_table(chosen, base[MEASURE], scores))


def _systems(chosen: argparse.Namespace) -> dict[str, System]:
    map_training = {} if chosen.map_rate is None else {"map_learning_rate": chosen.map_rate}
    return {
        "query": System({"shared": False, "train": "query"}, {}),
        "query+map": System(MAP, map_training),
        "rank": System({**MAP, "map_rank": chosen.rank}, map_training),
        "hidden": System({**MAP, "map_hidden": chosen.hidden}, map_training),
        "many": System(MAP, {**map_training, "hard_negatives": chosen.many}),
        "both": System({**MAP, "map_hidden": chosen.hidden}, {**map_training, "hard_negatives": chosen.many}),
        "full": System({}, {}),
        "separate": System({"shared": False}, {}),
    }


def _train(
    collection: ns.Collection, system: System, chosen: argparse.Namespace, seed: int
) -> tuple[ns.Encoder, float]:
    """Train the base model as `system`; return the encoder and the seconds of its training."""
    base = ns.load_encoder(collection, passage_tokens=chosen.tokens)
    negatives = ns.mine_negatives(
        collection, encoder=base, progress=False, seed=seed, shares={"bm25": 1.0, "dense": 0.0, "random": 0.0}
    )
    start = ns.load_encoder(collection, passage_tokens=chosen.tokens, **system.encoder)
    embed(collection, start.receipt)
    common = {"batch_size": chosen.batch, "learning_rate": chosen.rate, "max_steps": chosen.steps, "seed": seed}
    common |= {"epochs": 1000, "passage_tokens": 0, "evaluate_every": 0}  # all keep the weights of their last step
    encoder = ns.train(collection, negatives, encoder=start, progress=False, **common, **system.training)
    return encoder, encoder.receipt.seconds


def _live(collection: ns.Collection, encoder: ns.Encoder) -> str:
    """Embed the passages and publish a release; return the seconds of both as text."""
    settings = Settings(home=collection.home)
    begin = time.perf_counter()
    vectors = embed(collection, encoder.receipt)
    embedded = time.perf_counter()
    release = publish_unmeasured(settings, encoder.receipt, vectors, collection.snapshot)
    end = time.perf_counter()
    facts = f"{vectors.embedded:,} encoded, {vectors.derived:,} derived, fidelity {vectors.fidelity}"
    return (
        f"vectors {embedded - begin:.1f} s ({facts}), publication {end - embedded:.1f} s, live after "
        f"{end - begin:.1f} s: release {release.release} of {release.rows:,} passages"
    )


def _table(chosen: argparse.Namespace, base: float, scores: dict[str, list[float]]) -> str:
    setup = {name: getattr(chosen, name) for name in ("steps", "batch", "rate", "tokens")}
    lines = [
        f"{chosen.folder.resolve().name} {json.dumps(setup)}",
        f"{'system':<12}{MEASURE:>9}{'gain':>9}{'gain kept':>11}",
    ]
    full = statistics.mean(scores["full"]) - base if "full" in scores else None
    for name, values in {"base": [base], **scores}.items():
        gain = statistics.mean(values) - base
        share = f"{gain / full:>11.0%}" if full else f"{'–':>11}"
        by_seed = " ".join(f"{value:.4f}" for value in values)
        lines.append(f"{name:<12}{statistics.mean(values):>9.4f}{gain:>+9.4f}{share}   {by_seed}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
