"""Tasks around BM25 and hard negatives."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.data.plausible import check_qrels_fit
from tasks.core.data.snapshot import judged, qrels, queries
from tasks.core.evaluation.evaluate import encoder_run
from tasks.core.mining.bm25 import build_index, search_bm25
from tasks.core.mining.mine import mine
from tasks.core.receipts import Embeddings, Encoder, Index, Negatives, Run, Snapshot
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
    settings: Settings, snapshot: Snapshot, bm25: Run, encoder: Encoder, embeddings: Embeddings, round_: int
) -> Negatives:
    """Candidates of BM25 and, from the second round on, of the encoder itself; then the filters."""
    sources = [("bm25", bm25)]
    if round_ > 0:
        depth = settings.mining.depth
        sources.append(("dense", encoder_run(settings.home, encoder, embeddings, snapshot, "train", depth)))
    asked = queries(snapshot, "train")["text"].to_pylist()
    vectors = load_encoder(encoder.path).encode_queries(asked)
    negatives = mine(settings.home, snapshot, sources, embeddings, vectors, round_, settings.mining)
    report.negatives_sample(negatives)
    return negatives
