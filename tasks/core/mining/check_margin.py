"""Compare the encoder that mines with BM25, before its scores refuse candidates.

The margin filter trusts the encoder: a candidate that scores above a known positive may be an unjudged positive. Where
the encoder ranks worse than BM25, it is more often a mistake of the encoder, and a negative to learn from.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from tasks.core.base.mining_checks import MarginCheck
from tasks.core.base.receipts import Embeddings, Run, Snapshot
from tasks.core.mining.candidates import known_positives, read_batches
from tasks.core.mining.filters import pair_keys
from tasks.core.retrieval.exact import score_pairs

MAX_QUERIES = 1_000


def check_margin(
    snapshot: Snapshot,
    bm25: Run,
    embeddings: Embeddings,
    training_queries: pa.Table,
    vectors: np.ndarray,
    seed: int,
) -> MarginCheck:
    """Rank BM25's candidates of up to 1,000 training queries with the encoder, and compare both orders.

    Args:
        snapshot: passages and known positives.
        bm25: run over the training queries.
        embeddings: passage vectors of the encoder.
        training_queries: query_id, text.
        vectors: float32 (queries, dimension), of the training queries.
        seed: draws the queries.

    Raises:
        Mismatch: the run does not belong to the snapshot and the queries.
    """
    count = min(MAX_QUERIES, training_queries.num_rows)
    rows = np.sort(np.random.default_rng(seed).choice(training_queries.num_rows, count, replace=False))
    drawn = training_queries.take(pa.array(rows))
    ((_, candidates),) = read_batches(snapshot, [bm25], drawn, count)
    positive = np.isin(pair_keys(candidates.query, candidates.passage), pair_keys(*known_positives(snapshot, drawn)))
    dense = score_pairs(vectors[rows], embeddings, candidates.query, candidates.passage)
    of_bm25 = _reciprocal_ranks(candidates.query, candidates.rank, positive)
    if len(of_bm25) == 0:
        return MarginCheck(queries=0, bm25=0.0, encoder=0.0)
    of_encoder = _reciprocal_ranks(candidates.query, -dense, positive)
    return MarginCheck(queries=len(of_bm25), bm25=float(of_bm25.mean()), encoder=float(of_encoder.mean()))


def _reciprocal_ranks(query: np.ndarray, key: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return 1 / rank of the best positive of each query that has one, by ascending key; float64, in order of query."""
    order = np.lexsort((key, query))
    ranked = query[order]
    rank = 1 + np.arange(len(ranked)) - np.searchsorted(ranked, ranked)
    hits = np.flatnonzero(positive[order])
    _, first = np.unique(ranked[hits], return_index=True)
    best: np.ndarray = 1 / rank[hits[first]]
    return best
