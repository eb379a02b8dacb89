"""One retriever on one split of a snapshot: its run, its measures per query, its means."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import load, produce
from tasks.core.base.receipts import Embeddings, Encoder, Evaluation, Run, Snapshot
from tasks.core.base.settings import EvaluationSettings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.measures import NAMES, means, per_query
from tasks.core.retrieval.dense import dense_run
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.reader import judged, qrels


def evaluate_run(home: Path, system: str, run: Run, snapshot: Snapshot, split: str) -> Evaluation:
    """Measure a finished run on the judged queries of `split`."""
    key = {"system": system, "run": run.digest, "snapshot": snapshot.digest, "split": split, "measures": sorted(NAMES)}

    def build(folder: Path) -> Mapping[str, Any]:
        table = per_query(read_run(run), qrels(snapshot, split))
        pq.write_table(table, folder / "per_query.parquet")
        return {
            "system": system,
            "split": split,
            "rows": table.num_rows,
            "metrics": means(table),
            "parents": (run.digest, snapshot.digest),
        }

    return produce(home, Evaluation, key, build)


def evaluate_encoder(
    home: Path, system: str, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, settings: EvaluationSettings
) -> Evaluation:
    """Rank every passage for the held-out queries by exact search over the encoder's embeddings, and measure that."""
    run = encoder_run(home, encoder, embeddings, snapshot, settings.split, settings.searched_depth)
    return evaluate_ranking(home, system, run, snapshot, settings)


def evaluate_ranking(home: Path, system: str, run: Run, snapshot: Snapshot, settings: EvaluationSettings) -> Evaluation:
    """Measure a finished run of `searched_depth` passages as the settings say."""
    if settings.leave_out_self:
        run = leave_out_self(home, run, settings.depth)
    return evaluate_run(home, system, run, snapshot, settings.split)


def encoder_run(
    home: Path, encoder: Encoder, embeddings: Embeddings, snapshot: Snapshot, split: str, depth: int
) -> Run:
    """The encoder's exact `depth` best passages for every query of `split`.

    Raises:
        BadInput: the split has no judged query.
    """
    asked = judged(snapshot, split)
    vectors = load_encoder(encoder.path).encode_queries(asked["text"].to_pylist())
    return dense_run(home, split, asked, vectors, embeddings, depth)


def run_of(home: Path, evaluation: Evaluation) -> Run:
    """The run that was measured."""
    return load(home, Run, evaluation.parents[0])


def read_run(run: Run) -> pa.Table:
    """query_id, passage_id, rank, score; see `mining.runs`."""
    return pq.read_table(run.path / RUN_FILE)


def read_per_query(evaluation: Evaluation) -> pa.Table:
    """query_id and one column a measure; see `measures.per_query`."""
    return pq.read_table(evaluation.path / "per_query.parquet")
