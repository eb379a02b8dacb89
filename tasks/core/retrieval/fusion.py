"""Merge the dense and the BM25 scores of passages by a weighted sum.

score = w · d / D + (1 - w) · b / B

d and b are the dense and the BM25 score of a passage. D and B are the mean scores of the best passage of a query,
measured once for a release, so that both parts are near 1 for good passages. They are constants: a high BM25 score of
one query counts more than a low one of another, and a score depends only on its query and its passage. Compared with
normalization by the best scores of each query, see Bruch, Gai, and Ingber, "An Analysis of Fusion Functions for Hybrid
Retrieval", TOIS 2023, where a convex combination with few labels beats reciprocal rank fusion.

Every passage has its true score from both retrievers, also if only one of them ranks it high.
"""

from __future__ import annotations

import numpy as np

from tasks.core.base.ranking import Ranking


def fuse_scores(ranking: Ranking, dense: np.ndarray, lexical: np.ndarray) -> np.ndarray:
    """Return the hybrid scores float64 (n,) of n passages.

    Args:
        ranking: weight and scales.
        dense, lexical: scores float32 (n,) of each passage.
    """
    dense_part = dense.astype(np.float64) / ranking.dense_scale
    return ranking.weight * dense_part + (1 - ranking.weight) * lexical.astype(np.float64) / ranking.lexical_scale
