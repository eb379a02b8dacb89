"""Train for a few steps, and measure the trained weights and their averages on dev and test queries.

    python tests/benchmarks/merging.py FOLDER [--seeds 0 1] [--steps 40] [--rate 5e-5] [--tokens 128] [--home DIR]

FOLDER is a collection in BEIR layout with a train and a test split. The negatives are those of BM25 after all filters.
Up to 300 queries of each split rank a pool of passages (2,000 for test), so compare the figures only with each other.
`chosen` is what `[training] merge = "dev"` keeps.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

import nightshift as ns
from nightshift.retrieval import bm25_run
from tasks.core.base.merge import TRAINED
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.training.batches import batch_at, plan
from tasks.core.training.checkpoint import put_weights
from tasks.core.training.dev_evaluation import DevEvaluation, dev_evaluation
from tasks.core.training.merge_choice import changed_weights, choose, late_steps
from tasks.core.training.merging import linear, mean, spherical
from tasks.core.training.pairs import load_pairs
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import Stepper, make_autocast

POOLS = {"dev": 600, "test": 2000}  # passages


def main() -> None:
    """Train with each seed, and print one line for each."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1], help="seeds of the training")
    arguments.add_argument("--steps", type=int, default=40, help="training steps")
    arguments.add_argument("--rate", type=float, default=5e-5, help="peak learning rate")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--home", type=Path, help="folder of the artifacts, to resume from")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for seed in chosen.seeds:
            print(f"seed {seed}: {_measure(chosen, chosen.home or Path(scratch), seed)}", flush=True)


def _measure(chosen: argparse.Namespace, home: Path, seed: int) -> str:
    """Train with a seed. Returns nDCG@10 of each candidate on test queries, and which one dev queries choose."""
    training = {"seed": seed, "max_steps": chosen.steps, "epochs": 1000, "learning_rate": chosen.rate}
    settings = Settings.model_validate({"home": home, "training": {**training, "dev_queries": 300}})
    collection = ns.read_beir(chosen.folder, home=home)
    base = ns.load_encoder(collection, passage_tokens=chosen.tokens)
    bm25 = {"bm25": 1.0, "dense": 0.0, "random": 0.0}
    negatives = ns.mine_negatives(collection, encoder=base, progress=False, seed=seed, shares=bm25)
    encoder = DualEncoder(base.receipt.path, read_spec(base.receipt.path))
    data = load_pairs(collection.snapshot, negatives.receipt, encoder, settings.training)
    stepper = Stepper(encoder, settings.training, chosen.steps, Ranks())
    start, late = changed_weights(stepper.model), []
    for step, pairs in enumerate(plan(data, settings.training, chosen.steps)):
        stepper.step(data, batch_at(data, pairs, settings.training, step), step)
        if step + 1 in late_steps(chosen.steps):
            late.append(changed_weights(stepper.model))
    trained = late[-1]
    candidates = {
        TRAINED: lambda: trained,
        "half": partial(linear, start, trained, 0.5),
        "three quarters": partial(linear, start, trained, 0.75),
        "arc": partial(spherical, start, trained, 0.5),
        "late": partial(mean, late),
    }
    splits = {split: _evaluation(collection, split, encoder, settings) for split in POOLS}
    ndcg: dict[str, dict[str, np.ndarray]] = {split: {} for split in POOLS}
    for name, weights_of in candidates.items():
        put_weights(stepper.model, weights_of())
        for split, evaluation in splits.items():
            autocast = make_autocast(settings.training, stepper.device)
            ndcg[split][name] = evaluation.ndcg(encoder, Ranks(), autocast)
    kept = choose(ndcg["dev"]).kept
    figures = ", ".join(f"{name} {values.mean():.4f}" for name, values in ndcg["test"].items())
    return f"{figures}; chosen: {kept} {ndcg['test'][kept].mean():.4f}"


def _evaluation(collection: ns.Collection, split: str, encoder: DualEncoder, settings: Settings) -> DevEvaluation:
    training = settings.training.model_copy(update={"dev_passages": POOLS[split]})
    run = bm25_run(collection, split, MiningSettings())
    evaluation = dev_evaluation(collection.snapshot, split, encoder, training, run)
    assert evaluation is not None, f"the collection has no {split} queries"
    return evaluation


if __name__ == "__main__":
    main()
