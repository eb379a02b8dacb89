"""Tasks that search with BM25 and mine hard negatives."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.base.receipts import Embeddings, Encoder, Index, Negatives, Postings, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.evaluation.mine_round import mine_with_encoder
from tasks.core.ingest.shuffled_qrels import check_qrels_fit, warn_of_unanswered
from tasks.core.mining.candidates import Source
from tasks.core.mining.churn import churn
from tasks.core.mining.mine import source_shares
from tasks.core.retrieval.bm25 import bm25_search, build_index
from tasks.core.retrieval.bm25_without_index import search_postings
from tasks.core.retrieval.postings import build_postings
from tasks.core.retrieval.runs import LazyVectors
from tasks.core.retrieval.searches import Search, find_run, join_shards, search_shard, search_whole
from tasks.core.retrieval.training_queries import keep_vectors, training_search
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.snapshot.held_out import held_out
from tasks.core.snapshot.splits import Split
from tasks.policy import STEP


@task(name="index", task_run_name="index {snapshot.rows} passages with BM25", **STEP)
def index_passages(settings: Settings, snapshot: Snapshot) -> Index:
    """Build the BM25 index (Lucene) of a snapshot."""
    return build_index(settings.home, snapshot, settings.mining)


@task(name="analyze", task_run_name="analyze {snapshot.rows} passages", **STEP)
def analyze_passages(settings: Settings, snapshot: Snapshot, language: str, stemmer: str) -> Postings:
    """Build the lexical index that releases rank with."""
    return build_postings(settings.home, snapshot, language, stemmer)


@task(name="search-bm25", task_run_name="search {split} queries with BM25", **STEP)
def search_split(settings: Settings, snapshot: Snapshot, index: Index, split: str, depth: int) -> Run:
    """Search the queries of a split with BM25. The run of the training queries is joined from its shards.

    Only the queries that the night uses are searched: those of its training steps, or those that it measures.

    Raises BadInput when the qrels of the split look shuffled.
    """
    if split == Split.TRAIN:
        queries, pairs = drawn_queries(snapshot, settings.training.pairs_used)
    else:
        queries, pairs = held_out(snapshot, split, settings.evaluation.max_queries)
    search = bm25_search(settings.home, index, queries, depth, settings.mining)
    shards = query_shards(settings) if split == Split.TRAIN else 1
    run = search_whole(search) if shards == 1 else join_shards(search, shards)
    warn_of_unanswered(check_qrels_fit(run, pairs, settings.data.min_lift), split)
    return run


@task(name="search-bm25", task_run_name="search held-out queries with BM25", **STEP)
def search_held_out(settings: Settings, snapshot: Snapshot, postings: Postings) -> Run:
    """Search the held-out queries over the postings alone, without an index of Lucene.

    Raises BadInput when the qrels of the split look shuffled.
    """
    rules = settings.evaluation
    queries, pairs = held_out(snapshot, rules.split, rules.max_queries)
    run = search_postings(settings.home, snapshot, postings, queries, rules.searched_depth, settings.mining)
    warn_of_unanswered(check_qrels_fit(run, pairs, settings.data.min_lift), rules.split)
    return run


def query_shards(settings: Settings) -> int:
    """Return the number of query shards: `[mining] shards` on Ray; 1 on one host, where one search is faster."""
    return settings.mining.shards if settings.compute.engine == "ray" else 1


def count_bm25_shards(settings: Settings, snapshot: Snapshot, index: Index) -> int:
    """Return the number of query shards to search with BM25. 0 if the run exists or is not sharded."""
    mining, queries = settings.mining, drawn_queries(snapshot, settings.training.pairs_used).queries
    if query_shards(settings) == 1 or find_run(bm25_search(settings.home, index, queries, mining.depth, mining)):
        return 0
    return mining.shards


@task(name="search-bm25-shard", task_run_name="search rank {rank} of {world_size} with BM25", **STEP)
def search_bm25_shard(settings: Settings, snapshot: Snapshot, index: Index, rank: int, world_size: int) -> int:
    """Search one shard of the training queries with BM25; return its number of queries."""
    mining, queries = settings.mining, drawn_queries(snapshot, settings.training.pairs_used).queries
    return search_shard(bm25_search(settings.home, index, queries, mining.depth, mining), rank, world_size)


def count_dense_shards(
    settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, round_: int
) -> int:
    """Return the number of query shards to search with the encoder. 0 if the run exists or is not sharded."""
    mining = settings.mining
    if query_shards(settings) == 1 or Source.DENSE not in source_shares(round_, mining):
        return 0
    search, _ = _training_search(settings, snapshot, encoder, embeddings)
    return 0 if find_run(search) else mining.shards


@task(name="encode-queries", task_run_name="encode training queries, {encoder.fingerprint}", **STEP)
def encode_queries(settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings) -> int:
    """Encode and store the training queries for the sharded search; return their number."""
    return keep_vectors(*_training_search(settings, snapshot, encoder, embeddings))


@task(name="search-dense-shard", task_run_name="search rank {rank} of {world_size}, {encoder.fingerprint}", **STEP)
def search_dense_shard(
    settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, rank: int, world_size: int
) -> int:
    """Search one shard of the training queries in the embeddings, exactly; return its number of queries."""
    search, _ = _training_search(settings, snapshot, encoder, embeddings, mapped=True)
    return search_shard(search, rank, world_size)


def _training_search(
    settings: Settings, snapshot: Snapshot, encoder: Encoder, embeddings: Embeddings, *, mapped: bool = False
) -> tuple[Search, LazyVectors]:
    depth, pairs = settings.mining.depth, settings.training.pairs_used
    return training_search(settings.home, snapshot, encoder, embeddings, depth, pairs=pairs, mapped=mapped)


def cpu_settings(settings: Settings) -> Settings:
    """Return the settings for search shards: without a GPU, and with one Lucene thread per requested core."""
    compute, mining = settings.compute, settings.mining
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
    """Mine the negatives of a round from the sources that its schedule lists, and report churn and a sample.

    The training queries are encoded at most once, and not at all if all results exist.
    """
    home, mining, shards = settings.home, settings.mining, query_shards(settings)
    pairs = settings.training.pairs_used
    negatives = mine_with_encoder(
        home, snapshot, bm25, encoder, embeddings, round_, mining, settings.evaluation, pairs=pairs, shards=shards
    )
    negatives = negatives.model_copy(update={"churn": churn(home, negatives, serving)})
    report.negatives_sample(negatives)
    return negatives
