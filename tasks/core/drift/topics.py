"""Topics of the reference's queries: clusters of their vectors, and how often a query of each scores low.

The mix of topics differs from night to night, and some topics always score lower than others. So a night's low-score
share is held against what its own mix would usually have, not against the mix of the reference. On MedQuAD, at 1,000
queries a night of wobbling mix, that takes the standard deviation between normal nights from .0093 to .0069 and leaves
the rise with 10 % new topics as it was (.034).
"""

from __future__ import annotations

import numpy as np

TOPICS = 25
MEMBERS = 40  # queries that a topic has on average at least
PRIOR = 20  # queries of the overall share that every topic's own share is mixed with


def topics_of(vectors: np.ndarray) -> np.ndarray:
    """Cluster vectors (queries, dimension) by spherical k-means; return unit centers float32 (topics, dimension).

    Equal vectors give equal centers. There are at most TOPICS topics, and one when there are few queries.
    """
    import faiss

    count = max(1, min(TOPICS, len(vectors) // MEMBERS))
    clustering = faiss.Kmeans(vectors.shape[1], count, niter=15, spherical=True, seed=0, min_points_per_centroid=1)
    clustering.train(np.ascontiguousarray(vectors, np.float32))
    assert clustering.centroids is not None
    return np.asarray(clustering.centroids)


def nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The topic int64 (queries,) of each vector."""
    found: np.ndarray = np.argmax(vectors @ centres.T, axis=1)
    return found


def shares_of(members: np.ndarray, low: np.ndarray, topics: int) -> np.ndarray:
    """Share float64 (topics,) of each topic's queries that score low, from bool (queries,).

    Small topics lean to the share of all.
    """
    lows, sizes = (np.bincount(members, weights, topics) for weights in (low.astype(float), None))
    shares: np.ndarray = (lows + PRIOR * low.mean()) / (sizes + PRIOR)
    return shares
