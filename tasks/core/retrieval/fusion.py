"""Merge the dense and the BM25 scores of passages: a convex combination of scores with theoretical minima.

score = w · (d + B) / (d₁ + B) + (1 - w) · b / b₁

d and b are the dense and the BM25 score of a passage, d₁ and b₁ the best of the query. B = ‖query‖ · ‖longest passage‖:
no dense score is below -B. Both parts are in [0, 1]. The method is TM2C2
in Bruch, Gai, and Ingber, "An Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023.

Every passage has its true score from both retrievers, also if only one of them ranks it high. A score depends only on
its query, its passage, and the best scores of the query.
"""

from __future__ import annotations

import numpy as np


def fuse_scores(
    weight: float,
    dense: np.ndarray,
    lexical: np.ndarray,
    *,
    best_dense: np.ndarray | float,
    best_lexical: np.ndarray | float,
    bound: np.ndarray | float,
) -> np.ndarray:
    """Return the hybrid scores float64 (n,) of n passages.

    Args:
        weight: of the dense score, in [0, 1].
        dense, lexical: scores float32 (n,) of each passage.
        best_dense, best_lexical: of the query of each passage: scalars or float (n,).
        bound: B of the query of each passage: scalar or float (n,), positive.
    """
    dense_part = (dense.astype(np.float64) + bound) / (np.asarray(best_dense, np.float64) + bound)
    lexical_part = lexical.astype(np.float64) / np.maximum(best_lexical, np.finfo(np.float32).tiny)
    return weight * dense_part + (1 - weight) * lexical_part
