"""Rank the passages of a query by the hybrid score, from the hits of the collection and of the lexical index."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tasks.core.base.ranking import Ranking
from tasks.core.release.publisher import Found
from tasks.core.retrieval.bm25_scorer import Bm25Scorer, Weights
from tasks.core.retrieval.fusion import fuse_scores

ROUNDING = 1e-6  # more than the rounding error of a hybrid score

FetchVectors = Callable[[Sequence[int]], Mapping[int, np.ndarray]]


@dataclass(frozen=True)
class HybridQuery:
    """A query with the hits of both retrievers: its vector, and rows and scores, best first."""

    weights: Weights  # of its terms
    vector: np.ndarray
    dense: Sequence[Found]
    lexical_rows: np.ndarray
    lexical_scores: np.ndarray


class _Candidates:
    """Scores of the candidates of one query. Rows that only BM25 found have no dense score until `rank`."""

    def __init__(self, query: HybridQuery, scorer: Bm25Scorer, ranking: Ranking) -> None:
        self._query, self._ranking = query, ranking
        self.rows = np.array([hit.row for hit in query.dense], np.int64)
        self._dense = np.array([hit.score for hit in query.dense], np.float32)
        self._lexical = scorer.scores(query.weights, self.rows)
        only_lexical = ~np.isin(query.lexical_rows, self.rows)
        self._extra_rows = query.lexical_rows[only_lexical].astype(np.int64)
        self._extra = query.lexical_scores[only_lexical]

    def contenders(self, k: int) -> np.ndarray:
        """Return the rows that only BM25 ranks and that may be among the best `k`: int64 (n,).

        Their dense score is at most that of the last dense hit. Without dense hits, all of them may be.
        """
        if len(self._extra_rows) == 0 or len(self._dense) == 0:
            return self._extra_rows
        last = self._dense.min()
        most = fuse_scores(self._ranking, np.full(len(self._extra), last, np.float32), self._extra)
        fused = fuse_scores(self._ranking, self._dense, self._lexical)
        least = np.partition(fused, -k)[-k] if len(fused) >= k else -np.inf
        return self._extra_rows[most + ROUNDING >= least]

    def rank(self, k: int, vectors: Mapping[int, np.ndarray]) -> list[tuple[int, float]]:
        """Return (row, hybrid score) of the best `k`, given the vectors of the contenders that may be returned."""
        kept = np.array([row in vectors for row in self._extra_rows.tolist()], bool)
        rows = np.concatenate([self.rows, self._extra_rows[kept]])
        extra = [float(vectors[row] @ self._query.vector) for row in self._extra_rows[kept].tolist()]
        dense = np.concatenate([self._dense, np.array(extra, np.float32)])
        fused = fuse_scores(self._ranking, dense, np.concatenate([self._lexical, self._extra[kept]]))
        order = np.lexsort((rows, -fused))[:k]
        return [(int(rows[place]), float(fused[place])) for place in order]


def rank_hybrid(
    queries: Sequence[HybridQuery], scorer: Bm25Scorer, ranking: Ranking, k: int, fetch_vectors: FetchVectors
) -> list[list[tuple[int, float]]]:
    """Return (row, hybrid score) of the `k` best passages of each query, best first; equal scores by row.

    Passages that only BM25 ranks get their true dense score, from vectors that are fetched in one request for all
    queries, and only where they may reach the first `k`.

    fetch_vectors: returns row → vector float32 (dimension,) of the rows that may be returned; others are left out.
    """
    candidates = [_Candidates(query, scorer, ranking) for query in queries]
    wanted = sorted({row for query in candidates for row in query.contenders(k).tolist()})
    vectors = fetch_vectors(wanted) if wanted else {}
    return [query.rank(k, vectors) for query in candidates]
