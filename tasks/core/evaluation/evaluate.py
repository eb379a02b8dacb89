"""Evaluate a retriever on one split of a snapshot: its run, its measures per query, and their means."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import load, produce
from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import ArmScores, Embeddings, Encoder, Evaluation, Postings, Run, Snapshot
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.evaluation.measures import NAMES, means, per_query
from tasks.core.retrieval.arms import fused_run, score_arms
from tasks.core.retrieval.carried_hits import search_carried
from tasks.core.retrieval.dense import dense_run
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.retrieval.postings import over_snapshot
from tasks.core.retrieval.query_vectors import encoder_vectors
from tasks.core.retrieval.runs import RUN_FILE
from tasks.core.snapshot.held_out import held_out, is_sampled

log = logging.getLogger("nightshift.evaluation")

MEASURE = "ndcg@10"  # whose standard error is logged


def evaluate_run(home: Path, system: str, run: Run, snapshot: Snapshot, split: str, most: int = 0) -> Evaluation:
    """Measure a finished run on the judged queries of `split`: all, or a sample of `most`."""
    sampled = is_sampled(snapshot, split, most)
    key = {
        **{"system": system, "run": run.digest, "snapshot": snapshot.digest, "split": split},
        "measures": sorted(NAMES),
        **({"most": most} if sampled else {}),
    }

    def build(folder: Path) -> Mapping[str, Any]:
        table = per_query(read_run(run), held_out(snapshot, split, most).qrels)
        pq.write_table(table, folder / "per_query.parquet")
        if sampled:
            values = table[MEASURE].to_numpy()
            log.info(
                "%s: measured on a sample of %s of %s %s queries; %s %.4f, standard error %.4f",
                *(system, f"{len(values):,}", f"{snapshot.splits[split]:,}", split, MEASURE, values.mean()),
                values.std() / len(values) ** 0.5,
            )
        return {
            "system": system,
            "split": split,
            "rows": table.num_rows,
            "metrics": means(table),
            "parents": (run.digest, snapshot.digest),
        }

    return produce(home, Evaluation, key, build)


def evaluate_ranking(home: Path, system: str, run: Run, snapshot: Snapshot, settings: EvaluationSettings) -> Evaluation:
    """Measure a finished run of `searched_depth` passages per query; drop own passages if `leave_out_self` is set."""
    if settings.leave_out_self:
        run = leave_out_self(home, run, settings.depth)
    return evaluate_run(home, system, run, snapshot, settings.split, settings.max_queries)


def evaluate_ranked(
    home: Path,
    system: str,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    ranking: Ranking,
    settings: EvaluationSettings,
) -> Evaluation:
    """Rank the held-out queries as a release with this ranking would over this snapshot, and measure the result.

    Raises:
        BadInput: the split has no judged query.
        NightshiftError: the lexical index of the snapshot cannot be built.
    """
    queries = held_out(snapshot, settings.split, settings.max_queries).queries
    ranking = over_snapshot(home, ranking, snapshot)
    run = release_run(home, settings.split, queries, encoder, embeddings, ranking, settings.searched_depth)
    return evaluate_ranking(home, system, run, snapshot, settings)


def release_run(
    home: Path, name: str, queries: pa.Table, encoder: Encoder, embeddings: Embeddings, ranking: Ranking, depth: int
) -> Run:
    """Rank the `depth` best passages for each query (query_id, text) as a release with this ranking does."""
    vectors = encoder_vectors(encoder, queries)
    if ranking.mode is Mode.DENSE:
        search = partial(search_carried, home, embeddings)
        return dense_run(home, name, queries, vectors.make(), embeddings, depth, search)
    postings = load(home, Postings, ranking.postings)
    return fused_run(home, score_arms(home, queries, vectors, embeddings, postings, ranking), ranking, depth)


def encoder_arms(
    home: Path,
    encoder: Encoder,
    embeddings: Embeddings,
    snapshot: Snapshot,
    split: str,
    ranking: Ranking,
    most: int = 0,
) -> ArmScores:
    """Score the best passages of the encoder and of BM25 with both, for the judged queries of `split`, or a sample."""
    queries = held_out(snapshot, split, most).queries
    postings = load(home, Postings, ranking.postings)
    return score_arms(home, queries, encoder_vectors(encoder, queries), embeddings, postings, ranking)


def run_of(home: Path, evaluation: Evaluation) -> Run:
    """Load the run that was measured."""
    return load(home, Run, evaluation.parents[0])


def read_run(run: Run) -> pa.Table:
    """Read a run: query_id, passage_id, rank, score; see `retrieval.runs`."""
    return pq.read_table(run.path / RUN_FILE)


def read_per_query(evaluation: Evaluation) -> pa.Table:
    """Read the measures per query: query_id and one column per measure; see `measures.per_query`."""
    return pq.read_table(evaluation.path / "per_query.parquet")
