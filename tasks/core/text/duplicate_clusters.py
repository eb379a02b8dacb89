"""Clusters near-duplicate training passages. A passage is never a negative if its cluster contains a positive.

Two texts are linked if the Jaccard similarity of their five-word shingles reaches a threshold. A cluster is a connected
component of these links. A prefix filter (Chaudhuri et al., "A Primitive Operator for Similarity Joins in Data
Cleaning", 2006) finds candidate pairs: two similar sets share at least one of their rarest shingles. If many sets share
a shingle, each is compared only with the next sets in order of size. Copies of a template are still connected by a
chain of links, and the cost stays linear in the number of texts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.core.text.shingles import ShingleSets, near_duplicates, shingle

LINKS = 32  # maximum comparisons per text and shared shingle


class ShingleCollector:
    """Collects shingle sets of texts that arrive in batches; needs about 4 bytes per word."""

    def __init__(self) -> None:
        self._flat: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def add(self, texts: pa.Array) -> None:
        """Add the next texts (strings)."""
        flat, sizes = shingle(texts)
        self._flat.append(flat)
        self._sizes.append(sizes)

    def sets(self) -> ShingleSets:
        """Return the sets of all texts added so far, in order."""
        sizes = np.concatenate([np.zeros(0, np.int64), *self._sizes])
        return ShingleSets(np.concatenate([np.zeros(0, np.uint32), *self._flat]), np.cumsum(sizes) - sizes, sizes)


def clusters(sets: ShingleSets, threshold: float) -> np.ndarray:
    """Return a cluster number for each set, int64 (n,); near duplicates have the same number."""
    count = len(sets.sizes)
    left, right = likely_pairs(sets, threshold)
    near = near_duplicates(sets, left, right, threshold)
    links = coo_array((np.ones(near.sum(), bool), (left[near], right[near])), shape=(count, count))
    numbers: np.ndarray = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def likely_pairs(sets: ShingleSets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct pairs of sets that share one of their rarest shingles.

    They include all pairs above `threshold`, except where more than `LINKS` sets share a rarest shingle.

    Returns:
        Left and right set of each pair, both int64 (pairs,).
    """
    owner = np.repeat(np.arange(len(sets.sizes)), sets.sizes)
    hashes, frequency = _frequencies(sets.flat)
    order = np.lexsort((hashes, frequency, owner))
    place = np.arange(len(owner)) - sets.starts[owner]  # rank of a shingle in its set, rarest first
    prefix = sets.sizes - np.ceil(threshold * sets.sizes - 1e-9).astype(np.int64) + 1
    kept = order[(place < prefix[owner]) & (frequency[order] > 1)]
    kept = kept[np.lexsort((owner[kept], sets.sizes[owner[kept]], hashes[kept]))]
    owner, hashes = owner[kept], hashes[kept]
    count = np.int64(len(sets.sizes))
    pair_keys = []
    for step in range(1, LINKS + 1):
        same = hashes[step:] == hashes[:-step]
        low, high = np.minimum(owner[step:], owner[:-step])[same], np.maximum(owner[step:], owner[:-step])[same]
        pair_keys.append(np.unique(low * count + high))
    pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *pair_keys]))
    return pairs // max(1, count), pairs % max(1, count)


def _frequencies(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Load the hashes into main memory, and count the sets that contain each hash."""
    _, back, counts = np.unique(flat, return_inverse=True, return_counts=True)
    return np.asarray(flat), counts[back]
