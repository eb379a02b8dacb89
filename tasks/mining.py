"""Tasks around BM25 and hard negatives."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.receipts import Embeddings, Encoder, Index, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.ingest.shuffled_qrels import check_qrels_fit, warn_of_unanswered
from tasks.core.mining.churn import churn
from tasks.core.mining.mine import mine, source_shares
from tasks.core.retrieval.bm25 import bm25_search, build_index
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.retrieval.searches import find_run, join_slices, search_slice, search_whole
from tasks.core.retrieval.training_queries import keep_vectors, run_search, training_search
from tasks.core.snapshot.reader import judged, load_snapshot, qrels
from tasks.policy import STEP


@task(name="index", task_run_name="index {snapshot.rows} passages with BM25", **STEP)
def index_passages(settings: Settings, snapshot: Snapshot) -> Index:
    """Build the Lucene index of a snapshot."""
    return build_index(settings.home, snapshot, settings.mining)


def index_served(settings: Settings, serving: Release) -> Index:
    """Verify the index that searches of the serving release read; a damaged one is built again."""
    return index_passages(settings, load_snapshot(settings.home, serving.snapshot))


@task(name="search-bm25", task_run_name="search {split} queries with BM25", **STEP)
def search_split(settings: Settings, snapshot: Snapshot, index: Index, split: str, depth: int) -> Run:
    """BM25's best passages for the queries of a split; a split whose qrels look shuffled stops the night.

    Those of the training queries are joined of their slices, where `[mining] shards` cuts them.
    """
    search, slices = bm25_search(settings.home, index, judged(snapshot, split), depth, settings.mining), 1
    if split == "train":
        slices = settings.mining.shards
    run = search_whole(search) if slices == 1 else join_slices(search, slices)
    warn_of_unanswered(check_qrels_fit(run, qrels(snapshot, split), settings.data.min_lift), split)
    return run


def bm25_slices(settings: Settings, snapshot: Snapshot, index: Index) -> int:
    """The slices of the training queries that BM25 has yet to search; 0: the run is there, or made in one piece."""
    mining, asked = settings.mining, judged(snapshot, "train")
    if mining.shards == 1 or find_run(bm25_search(settings.home, index, asked, mining.depth, mining)):
        return 0
    return mining.shards


@task(name="search-bm25-slice", task_run_name="search rank {rank} of {world_size} with BM25", **STEP)
def search_bm25_slice(settings: Settings, snapshot: Snapshot, index: Index, rank: int, world_size: int) -> int:
    """Search one slice of the training queries with BM25; its queries."""
    mining, asked = settings.mining, judged(snapshot, "train")
    return search_slice(bm25_search(settings.home, index, asked, mining.depth, mining), rank, world_size)


def dense_slices(settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, round_: int) -> int:
    """The slices of the training queries that the encoder has yet to search in this round, as `bm25_slices`."""
    mining = settings.mining
    if mining.shards == 1 or "dense" not in source_shares(round_, mining):
        return 0
    search, _ = training_search(settings.home, snapshot, encoder, embeddings, mining.depth)
    return 0 if find_run(search) else mining.shards


@task(name="encode-queries", task_run_name="encode training queries, {encoder.fingerprint}", **STEP)
def encode_queries(settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings) -> int:
    """Vectors of the training queries, for the slices of their search; how many."""
    return keep_vectors(*training_search(settings.home, snapshot, encoder, embeddings, settings.mining.depth))


@task(name="search-dense-slice", task_run_name="search rank {rank} of {world_size}, {encoder.fingerprint}", **STEP)
def search_dense_slice(
    settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, rank: int, world_size: int
) -> int:
    """Search one slice of the training queries exactly in the embeddings; its queries."""
    depth = settings.mining.depth
    search, _ = training_search(settings.home, snapshot, encoder, embeddings, depth, mapped=True)
    return search_slice(search, rank, world_size)


def on_processors(settings: Settings) -> Settings:
    """The settings as slices get them: on Ray without a GPU, and with as many threads of Lucene as cores asked for."""
    compute, mining = settings.compute, settings.mining
    if compute.engine == "local":
        return settings
    threads = mining.threads or max(1, int(compute.cpus))
    changed = {
        "compute": compute.model_copy(update={"gpus": 0}),
        "mining": mining.model_copy(update={"threads": threads}),
    }
    return settings.model_copy(update=changed)


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
    home, mining = settings.home, settings.mining
    search, vectors = training_search(home, snapshot, encoder, embeddings, mining.depth)
    sources = [("bm25", bm25)]
    if "dense" in source_shares(round_, mining):
        sources.append(("dense", run_search(search, vectors, mining.shards)))
    if settings.evaluation.leave_out_self:
        sources = [(name, leave_out_self(home, run, run.depth)) for name, run in sources]
    negatives = mine(home, snapshot, sources, embeddings, vectors, round_, mining)
    negatives = negatives.model_copy(update={"churn": churn(home, negatives, serving)})
    report.negatives_sample(negatives)
    return negatives
