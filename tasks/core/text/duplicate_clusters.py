"""Clusters of near duplicates among training passages: what is never a negative where one of its cluster is a positive.

Two texts are joined when the Jaccard similarity of their five-word shingles reaches a threshold, and a cluster is
what is joined directly or through others. Pairs are found by a prefix filter (Chaudhuri et al., "A Primitive Operator
for Similarity Joins in Data Cleaning", 2006) with the rarest shingles first: two sets that similar share one of the
few rarest of each. Where many share one, each is compared with the next ones in size alone: copies of one
template are joined all the same, link by link, and the cost stays linear in the number of texts.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tasks.core.text.shingles import ShingleSets, near_duplicates, shingle

LINKS = 32  # texts that each is compared with for a shingle they share


class ShingleCollector:
    """Shingle sets of texts that arrive in batches, about 4 bytes a word."""

    def __init__(self) -> None:
        self._flat: list[np.ndarray] = []
        self._sizes: list[np.ndarray] = []

    def add(self, texts: pa.Array) -> None:
        """Take the next texts (strings)."""
        flat, sizes = shingle(texts)
        self._flat.append(flat)
        self._sizes.append(sizes)

    def sets(self) -> ShingleSets:
        """All sets so far, in the order of the texts."""
        sizes = np.concatenate([np.zeros(0, np.int64), *self._sizes])
        return ShingleSets(np.concatenate([np.zeros(0, np.uint32), *self._flat]), np.cumsum(sizes) - sizes, sizes)


def clusters(sets: ShingleSets, threshold: float) -> np.ndarray:
    """A cluster number for each set, int64 (n,): equal for those that near duplicates join."""
    count = len(sets.sizes)
    left, right = likely_pairs(sets, threshold)
    near = near_duplicates(sets, left, right, threshold)
    links = coo_array((np.ones(near.sum(), bool), (left[near], right[near])), shape=(count, count))
    numbers: np.ndarray = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def likely_pairs(sets: ShingleSets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of sets that share one of their rarest shingles, each pair once: two int64 arrays.

    All pairs above `threshold` are among them, but for shingles that more than `LINKS` sets have among their rarest.
    """
    owner = np.repeat(np.arange(len(sets.sizes)), sets.sizes)
    hashes, frequency = _frequencies(sets.flat)
    order = np.lexsort((hashes, frequency, owner))
    place = np.arange(len(owner)) - sets.starts[owner]  # of a shingle in its set, rarest first
    prefix = sets.sizes - np.ceil(threshold * sets.sizes - 1e-9).astype(np.int64) + 1
    kept = order[(place < prefix[owner]) & (frequency[order] > 1)]
    kept = kept[np.lexsort((owner[kept], sets.sizes[owner[kept]], hashes[kept]))]
    owner, hashes = owner[kept], hashes[kept]
    count = np.int64(len(sets.sizes))
    found = []
    for step in range(1, LINKS + 1):
        same = hashes[step:] == hashes[:-step]
        low, high = np.minimum(owner[step:], owner[:-step])[same], np.maximum(owner[step:], owner[:-step])[same]
        found.append(np.unique(low * count + high))
    pairs = np.unique(np.concatenate([np.zeros(0, np.int64), *found]))
    return pairs // max(1, count), pairs % max(1, count)


def _frequencies(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The hashes themselves in main memory, and in how many sets each of them is."""
    _, back, counts = np.unique(flat, return_inverse=True, return_counts=True)
    return np.asarray(flat), counts[back]
