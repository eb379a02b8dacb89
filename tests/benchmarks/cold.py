"""Measure a cold start: training on pairs made from passages, compared with training on labeled pairs.

    python tests/benchmarks/cold.py FOLDER [--steps 60] [--batch 32] [--tokens 128] [--seed 0] [--home DIR]

FOLDER is a collection in BEIR layout with a train and a test split. The cold start reads only its passages: the pairs
come from `[synthetic] structure`, and the weights are the mean with the base model (`merge = "half"`). Both trainings
have the same base model, steps, batch size, and rules for negatives, and end with their last step. All systems rank all
passages for the labeled test queries:

    base          the base model
    BM25          keywords
    base hybrid   the base model and BM25, with the default weight: a cold start has no queries to choose it on
    cold          the encoder of the cold start
    cold hybrid   the same with BM25, with the default weight
    labeled       the encoder trained on the labeled pairs

The last line is the share of the gain of labeled pairs that the cold start reaches, without BM25. With --home, an
interrupted run resumes.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path

from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.evaluation.evaluate import evaluate_ranked, evaluate_ranking
from tasks.core.evaluation.mine_round import mine_with_encoder
from tasks.core.evaluation.tune import tune_ranking
from tasks.core.ingest.ingest import ingest
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.reader import judged
from tasks.core.synthesis.synthesize import add_synthetic_pairs
from tasks.core.training.trainer import base_encoder, train

MEASURE = "ndcg@10"


def main() -> None:
    """Run both trainings and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path, help="collection in BEIR layout")
    arguments.add_argument("--steps", type=int, default=60, help="training steps")
    arguments.add_argument("--batch", type=int, default=32, help="queries per step")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--seed", type=int, default=0, help="seed of mining and training")
    arguments.add_argument("--home", type=Path, help="folder of artifacts, to resume from")
    chosen = arguments.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("nightshift.synthesis").setLevel(logging.INFO)
    with tempfile.TemporaryDirectory() as scratch:
        _Trial(chosen, (chosen.home or Path(scratch)) / chosen.folder.resolve().name).run()


class _Trial:
    """One collection, its labeled snapshot and its cold one, and the time since the start."""

    def __init__(self, chosen: argparse.Namespace, home: Path) -> None:
        self._begin, self._chosen = time.perf_counter(), chosen
        self._labeled = self._settings(home, "beir", structure=False)
        self._cold = self._settings(home, "corpus", structure=True)
        _, self._snapshot = ingest(self._labeled)
        self._scores: dict[str, float] = {}

    def _settings(self, home: Path, form: str, *, structure: bool) -> Settings:
        chosen = self._chosen
        merge = "half" if structure else "none"  # as `nightshift init --cold` suggests
        training = {
            "merge": merge,
            "max_steps": chosen.steps,
            "epochs": 1000,
            "learning_rate": 5e-5,
            "passage_tokens": 0,
            "batch_size": chosen.batch,
            "evaluate_every": 0,
        }
        tree = {
            "home": home,
            "data": {"format": form, "path": chosen.folder, "compare": False},
            "encoder": {"passage_tokens": chosen.tokens},
            "synthetic": {"structure": structure},
            "mining": {"seed": chosen.seed},
            "training": {**training, "seed": chosen.seed},
        }
        return Settings.model_validate(tree)

    def run(self) -> None:
        """Measure every system."""
        settings, snapshot = self._labeled, self._snapshot
        queries, depth = judged(snapshot, "test"), settings.evaluation.searched_depth
        index = build_index(settings.home, snapshot, settings.mining)
        run = search_bm25(settings.home, index, queries, depth, settings.mining)
        self._note("BM25", evaluate_ranking(settings.home, "bm25", run, snapshot, settings.evaluation).metrics)
        base = base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
        _, passages = ingest(self._cold)
        cold, _ = add_synthetic_pairs(self._cold, passages)
        self._measure("base", base, cold)
        self._measure("cold", self._train(self._cold, cold, base), cold)
        self._measure("labeled", self._train(settings, snapshot, base))
        base_score, labeled = self._scores["base"], self._scores["labeled"]
        gain = self._scores["cold"] - base_score
        print(f"gain of labeled pairs {labeled - base_score:+.4f}, of the cold start {gain:+.4f}", end="")
        print(f": {gain / (labeled - base_score):.0%} of it" if labeled > base_score else "")

    def _train(self, settings: Settings, snapshot: Snapshot, base: Encoder) -> Encoder:
        home, mining = settings.home, settings.mining
        index = build_index(home, snapshot, mining)
        bm25 = search_bm25(home, index, judged(snapshot, "train"), mining.depth, mining)
        vectors = gather_shards(home, base, snapshot, 1)
        negatives = mine_with_encoder(home, snapshot, bm25, base, vectors, 0, mining, settings.evaluation)
        return train(home, base, snapshot, negatives, settings)

    def _measure(self, name: str, encoder: Encoder, cold: Snapshot | None = None) -> None:
        """Measure the dense ranking of an encoder, and the hybrid ranking that a cold start would choose."""
        settings, snapshot = self._labeled, self._snapshot
        vectors = gather_shards(settings.home, encoder, snapshot, 1)
        held_out = settings.evaluation
        dense = evaluate_ranked(settings.home, name, encoder, vectors, snapshot, DENSE, held_out)
        self._note(name, dense.metrics)
        if cold is not None:
            ranking = self._cold_ranking(encoder, cold)
            mixed = evaluate_ranked(settings.home, name, encoder, vectors, snapshot, ranking, held_out)
            self._note(f"{name} hybrid", mixed.metrics)

    def _cold_ranking(self, encoder: Encoder, cold: Snapshot) -> Ranking:
        """Return the ranking that a night on the cold snapshot chooses."""
        home, mining = self._cold.home, self._cold.mining
        postings, vectors = (
            build_postings(home, cold, mining.language, mining.stemmer),
            gather_shards(home, encoder, cold, 1),
        )
        return tune_ranking(home, encoder, vectors, cold, postings, mining, self._cold.evaluation).ranking

    def _note(self, name: str, metrics: dict[str, float]) -> None:
        self._scores[name] = metrics[MEASURE]
        print(f"{name:<12} nDCG@10 {metrics[MEASURE]:.4f}   [{time.perf_counter() - self._begin:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
