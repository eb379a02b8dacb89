"""Tasks around BM25 and hard negatives."""

from __future__ import annotations

from functools import cache

import numpy as np
from prefect import task

from tasks import report
from tasks.core.data.plausible import check_qrels_fit
from tasks.core.data.snapshot import judged, qrels
from tasks.core.mining.bm25 import build_index, search_bm25
from tasks.core.mining.churn import churn
from tasks.core.mining.dense import dense_run
from tasks.core.mining.mine import mine, schedule
from tasks.core.mining.runs import Later
from tasks.core.receipts import Embeddings, Encoder, Index, Negatives, Release, Run, Snapshot
from tasks.core.settings import Settings
from tasks.core.training.encoder import load_encoder
from tasks.policy import STEP


@task(name="index", task_run_name="index {snapshot.rows} passages with BM25", **STEP)
def index_passages(settings: Settings, snapshot: Snapshot) -> Index:
    """Build the Lucene index of a snapshot."""
    return build_index(settings.home, snapshot, settings.mining)


@task(name="search-bm25", task_run_name="search {split} queries with BM25", **STEP)
def search_split(settings: Settings, snapshot: Snapshot, index: Index, split: str, depth: int) -> Run:
    """BM25's best passages for the queries of a split; a split whose qrels look shuffled stops the night."""
    run = search_bm25(settings.home, index, judged(snapshot, split), depth, settings.mining)
    check_qrels_fit(run, qrels(snapshot, split), settings.data.min_lift)
    return run


@task(name="mine", task_run_name="mine negatives, round {round_}", **STEP)
def mine_negatives(
    settings: Settings,
    snapshot: Snapshot,
    bm25: Run,
    encoder: Encoder,
    embeddings: Embeddings,
    round_: int,
    serving: Release | None,
) -> Negatives:
    """The candidates that the round's schedule asks for, then the filters; told beside those of the serving release.

    The training queries are encoded once at most, and not at all when everything is there.
    """
    home, mining, asked = settings.home, settings.mining, judged(snapshot, "train")

    @cache
    def encoded() -> np.ndarray:
        return load_encoder(encoder.path).encode_queries(asked["text"].to_pylist())

    vectors = Later(encoder.fingerprint, encoded)
    sources = [("bm25", bm25)]
    if "dense" in schedule(round_, mining):
        sources.append(("dense", dense_run(home, "train", asked, vectors, embeddings, mining.depth)))
    negatives = mine(home, snapshot, sources, embeddings, vectors, round_, mining)
    negatives = negatives.model_copy(update={"churn": churn(home, negatives, serving)})
    report.negatives_sample(negatives)
    return negatives
