"""Trains the same base model for the same number of steps with different recipes and measures each on held-out queries.

    python tests/benchmarks/quality.py FOLDER [--systems in-batch bm25 ...] [--seeds 0 1 2] [--steps 100] [--home DIR]

FOLDER is a collection in BEIR layout with a train and a test split. All recipes start from the same base model and see
the same pairs, batch size, peak learning rate, token limits and precision; all encoders are measured by exact search
over the whole corpus. The recipes:

    zero-shot      the base model as it is
    in-batch       ours, in-batch negatives only
    bm25           ours, BM25's best passages as hard negatives, nothing but known positives left out
    bm25-filtered  ours, BM25's candidates after all filters
    two-rounds     ours, half the steps so, half with candidates of the half-trained encoder beside BM25's
    st-mnrl        sentence-transformers, MultipleNegativesRankingLoss
    st-mined       sentence-transformers, the same with its mine_hard_negatives (relative margin 0.05)

With --home everything that is finished is kept there and not made again, so that a run can be stopped and continued.
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

from tasks.core.base.files import digest_of, produce
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.evaluate import evaluate_encoder, evaluate_run
from tasks.core.ingest.ingest import ingest
from tasks.core.mining.mine import NEGATIVES_FILE, mine
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.dense import dense_run
from tasks.core.snapshot.reader import passages, qrels, queries
from tasks.core.text.normalization import full_text
from tasks.core.training.trainer import base_encoder, train

MEASURES = ("ndcg@10", "mrr@10", "recall@100")


@dataclass(frozen=True)
class Trial:
    """What all recipes of one run have in common."""

    settings: Settings
    snapshot: Snapshot
    base: Encoder

    @property
    def home(self) -> Path:
        """Where all artifacts lie."""
        return self.settings.home

    def embed(self, encoder: Encoder) -> Embeddings:
        """The vectors of all passages."""
        return gather_shards(self.home, encoder, self.snapshot, self.settings.embedding.shards)

    def bm25(self, split: str) -> Run:
        """BM25's best passages for the queries of a split."""
        index = build_index(self.home, self.snapshot, self.settings.mining)
        asked = queries(self.snapshot, split)
        return search_bm25(self.home, index, asked, self.settings.mining.depth, self.settings.mining)


def main() -> None:
    """Run the recipes and print the table."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("folder", type=Path)
    arguments.add_argument("--systems", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--steps", type=int, default=100)
    arguments.add_argument("--batch", type=int, default=32)
    arguments.add_argument("--rate", type=float, default=5e-5, help="peak learning rate")
    arguments.add_argument("--tokens", type=int, default=128, help="token limit of a passage")
    arguments.add_argument("--home", type=Path, help="keep what is made here, and go on from it")
    chosen = arguments.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        home = chosen.home or Path(scratch)
        for seed in chosen.seeds:
            trial = _prepare(chosen, home, seed)
            for system in chosen.systems:
                _measure(trial, system, _results(chosen, home) / f"{system}-{seed}.json")
        print(_table(_results(chosen, home)))


def _results(chosen: argparse.Namespace, home: Path) -> Path:
    common = (chosen.folder.resolve().name, chosen.steps, chosen.batch, chosen.rate, chosen.tokens)
    return home / "results" / "-".join(map(str, common))


def _prepare(chosen: argparse.Namespace, home: Path, seed: int) -> Trial:
    settings = Settings.model_validate(
        {
            "home": home,
            "data": {"format": "beir", "path": chosen.folder, "compare": False},
            "encoder": {"passage_tokens": chosen.tokens},
            "mining": {"seed": seed},
            "training": {
                "batch_size": chosen.batch,
                "learning_rate": chosen.rate,
                "epochs": 1000,
                "max_steps": chosen.steps,
                "evaluate_every": 0,  # no recipe chooses among its steps
                "seed": seed,
            },
        }
    )
    snapshot = ingest(settings)[1]
    return Trial(settings, snapshot, base_encoder(home, snapshot, settings.encoder, settings.embedding))


def _measure(trial: Trial, system: str, file: Path) -> None:
    if file.exists():
        return
    encoder = RECIPES[system](trial)
    held_out = trial.settings.evaluation
    found = evaluate_encoder(trial.home, system, encoder, trial.embed(encoder), trial.snapshot, held_out)
    bm25 = evaluate_run(trial.home, "bm25", trial.bm25("test"), trial.snapshot, "test")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"system": found.metrics, "bm25": bm25.metrics}))


def _zero_shot(trial: Trial) -> Encoder:
    return trial.base


def _in_batch(trial: Trial) -> Encoder:
    return _train(trial, trial.base, _unfiltered(trial), trial.settings.training.max_steps, hard=0)


def _bm25(trial: Trial) -> Encoder:
    return _train(trial, trial.base, _unfiltered(trial), trial.settings.training.max_steps)


def _bm25_filtered(trial: Trial) -> Encoder:
    return _train(trial, trial.base, _mine(trial, trial.base, 0), trial.settings.training.max_steps)


def _two_rounds(trial: Trial) -> Encoder:
    steps = trial.settings.training.max_steps
    half = _train(trial, trial.base, _mine(trial, trial.base, 0), steps // 2)
    return _train(trial, half, _mine(trial, half, 1), steps - steps // 2)


def _train(trial: Trial, start: Encoder, negatives: Negatives, steps: int, hard: int | None = None) -> Encoder:
    training = trial.settings.training.model_copy(update={"max_steps": steps})
    if hard is not None:
        training = training.model_copy(update={"hard_negatives": hard})
    settings = trial.settings.model_copy(update={"training": training})
    return train(trial.home, start, trial.snapshot, negatives, settings)


def _mine(trial: Trial, encoder: Encoder, round_number: int) -> Negatives:
    vectors = trial.embed(encoder)
    asked = queries(trial.snapshot, "train")
    mining = trial.settings.mining
    query_vectors = load_encoder(encoder.path).encode_queries(asked["text"].to_pylist())
    sources = [("bm25", trial.bm25("train"))]
    if round_number:
        sources.append(("dense", dense_run(trial.home, "train", asked, query_vectors, vectors, mining.depth)))
    return mine(trial.home, trial.snapshot, sources, vectors, query_vectors, round_number, mining)


def _unfiltered(trial: Trial) -> Negatives:
    """BM25's first passages that are not judged positives, as one takes them who knows no better."""
    run, per_query = trial.bm25("train"), trial.settings.mining.per_query

    def build(folder: Path) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        hits = pq.read_table(run.path / "run.parquet").to_pandas()
        judged = qrels(trial.snapshot).select(["query_id", "passage_id"]).to_pandas()
        left = hits.merge(judged, how="left", on=["query_id", "passage_id"], indicator=True)
        left = left[left["_merge"] == "left_only"].sort_values(["query_id", "rank"])
        left = left.groupby("query_id").head(per_query)
        columns = {name: pa.array(left[name].tolist(), pa.string()) for name in ("query_id", "passage_id")}
        pq.write_table(pa.table(columns), folder / NEGATIVES_FILE)
        counts = {"round": 0, "queries": run.queries, "starved": 0, "candidates": len(hits), "refused": {}}
        return {"rows": len(left), **counts, "parents": (trial.snapshot.digest, run.digest)}

    return produce(trial.home, Negatives, {"unfiltered": run.digest, "per_query": per_query}, build)


def _st_mnrl(trial: Trial) -> Encoder:
    return _sentence_transformers(trial, "mnrl", lambda model, pairs: pairs)


def _st_mined(trial: Trial) -> Encoder:
    from sentence_transformers.util import mine_hard_negatives

    def mined(model: Any, pairs: Any) -> Any:
        corpus = [
            full_text(row["title"], row["text"]) for batch in passages(trial.snapshot) for row in batch.to_pylist()
        ]
        vectors = trial.home / "sentence-transformers" / "vectors"
        return mine_hard_negatives(
            pairs, model, corpus=corpus, relative_margin=0.05, num_negatives=1, cache_folder=str(vectors), verbose=False
        )

    return _sentence_transformers(trial, "mined", mined)


def _sentence_transformers(trial: Trial, name: str, prepare: Callable[[Any, Any], Any]) -> Encoder:
    """Train with sentence-transformers, and take its model over as a base model of ours to measure it alike."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss
    from sentence_transformers.training_args import BatchSamplers

    from tasks.core.encoder.base_model import find_base
    from tasks.core.encoder.hardware import has_bf16

    ours = trial.settings.training
    model = SentenceTransformer(str(find_base(trial.settings.encoder.model)), local_files_only=True)
    model.max_seq_length = trial.settings.encoder.passage_tokens
    pairs = prepare(model, Dataset.from_dict(_pairs(trial.snapshot)))
    key = {"peer": name, "snapshot": trial.snapshot.digest, "settings": trial.settings.model_dump(exclude={"home"})}
    folder = trial.home / "sentence-transformers" / digest_of(key)
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        max_steps=ours.max_steps,
        per_device_train_batch_size=ours.batch_size,
        learning_rate=ours.learning_rate,
        warmup_steps=round(ours.warmup * ours.max_steps),
        weight_decay=ours.weight_decay,
        max_grad_norm=ours.max_grad_norm,
        use_cpu=not torch.cuda.is_available(),
        bf16=has_bf16(),
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        seed=ours.seed,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    SentenceTransformerTrainer(model, arguments, pairs, loss=MultipleNegativesRankingLoss(model)).train()
    model.save_pretrained(str(folder))
    encoder = trial.settings.encoder.model_copy(update={"model": str(folder)})
    return base_encoder(trial.home, trial.snapshot, encoder, trial.settings.embedding)


def _pairs(snapshot: Snapshot) -> dict[str, list[str]]:
    train = qrels(snapshot, "train")
    asked = dict(zip(*queries(snapshot, "train").to_pydict().values(), strict=True))
    wanted = set(train["passage_id"].to_pylist())
    texts = {
        row["passage_id"]: full_text(row["title"], row["text"])
        for batch in passages(snapshot)
        for row in batch.to_pylist()
        if row["passage_id"] in wanted
    }
    return {
        "anchor": [asked[one] for one in train["query_id"].to_pylist()],
        "positive": [texts[one] for one in train["passage_id"].to_pylist()],
    }


Recipe = Callable[[Trial], Encoder]
RECIPES: dict[str, Recipe] = {
    "zero-shot": _zero_shot,
    "in-batch": _in_batch,
    "bm25": _bm25,
    "bm25-filtered": _bm25_filtered,
    "two-rounds": _two_rounds,
    "st-mnrl": _st_mnrl,
    "st-mined": _st_mined,
}


def _table(results: Path) -> str:
    lines = [f"{results.name} (collection, steps, batch, rate, tokens)"]
    lines.append(f"{'recipe':<15}{'seeds':>6}" + "".join(f"{name:>12}" for name in MEASURES) + "   nDCG@10 by seed")
    bm25: dict[str, float] = {}
    for system in RECIPES:
        found = [json.loads(file.read_text()) for file in sorted(results.glob(f"{system}-[0-9]*.json"))]
        if found:
            bm25 = found[0]["bm25"]
            lines.append(_line(system, [one["system"] for one in found]))
    return "\n".join([*lines, _line("bm25 alone", [bm25])])


def _line(system: str, found: list[dict[str, float]]) -> str:
    means = "".join(f"{statistics.mean(one[name] for one in found):>12.4f}" for name in MEASURES)
    return f"{system:<15}{len(found):>6}{means}   {' '.join(f'{one[MEASURES[0]]:.4f}' for one in found)}"


if __name__ == "__main__":
    main()
