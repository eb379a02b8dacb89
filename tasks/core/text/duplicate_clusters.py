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

from tasks.core.text.shingles import HASHES_AT_ONCE, ShingleSets, near_duplicates, shingle, slices

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
    from scipy.sparse import coo_array  # takes a third of a second, which nights without work can save
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(near.sum(), bool), (left[near], right[near])), shape=(count, count))
    numbers: np.ndarray = connected_components(links, directed=False)[1].astype(np.int64)
    return numbers


def likely_pairs(sets: ShingleSets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return distinct pairs of sets that share one of their rarest shingles.

    They include all pairs above `threshold`, except where more than `LINKS` sets share a rarest shingle. In memory are
    a sorted copy of the hashes, the rarest shingles that several sets share, and the work on a few million of them.

    Returns:
        Left and right set of each pair, both int64 (pairs,).
    """
    owner, hashes = _shared_rare_shingles(sets, threshold)
    order = np.argsort(hashes, kind="stable")
    owner, hashes = owner[order], hashes[order]
    count = len(sets.sizes)
    pair_keys = [np.zeros(0, np.int64)]
    starts = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]) != 0)
    for groups in slices(np.diff(starts, append=len(hashes)), HASHES_AT_ONCE):
        part = slice(starts[groups.start], starts[groups.stop] if groups.stop < len(starts) else len(hashes))
        pair_keys.append(_link(owner[part], hashes[part], sets.sizes, count))
    pairs = np.unique(np.concatenate(pair_keys))
    return pairs // max(1, count), pairs % max(1, count)


def _shared_rare_shingles(sets: ShingleSets, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the shingles of each set's prefix, rarest first, that other sets have too.

    Returns:
        The set, int32 (n,), and the hash, uint32 (n,), of each, by set.
    """
    shared, frequencies = _shared_hashes(sets.flat)
    prefix = sets.sizes - np.ceil(threshold * sets.sizes - 1e-9).astype(np.int64) + 1
    owners, kept_hashes = [np.zeros(0, np.int32)], [np.zeros(0, np.uint32)]
    for part in slices(sets.sizes, HASHES_AT_ONCE):
        first, sizes = sets.starts[part.start], sets.sizes[part]
        hashes = np.asarray(sets.flat[first : first + sizes.sum()])
        owner = np.repeat(np.arange(part.start, part.stop, dtype=np.int32), sizes)
        at, ascending = np.empty(len(hashes), np.int64), np.argsort(hashes)
        at[ascending] = np.searchsorted(shared, hashes[ascending])  # ascending: three times as fast
        at = at.clip(max=max(0, len(shared) - 1))
        common = shared[at] == hashes if len(shared) else np.zeros(len(hashes), bool)
        frequency = np.where(common, frequencies[at], 1) if len(shared) else np.ones(len(hashes), np.int64)
        order = np.lexsort((hashes, frequency, owner))
        place = np.arange(len(owner)) - (sets.starts[owner] - first)  # rank of a shingle in its set, rarest first
        kept = order[(place < prefix[owner]) & (frequency[order] > 1)]
        owners.append(owner[kept])
        kept_hashes.append(hashes[kept])
    return np.concatenate(owners), np.concatenate(kept_hashes)


def _shared_hashes(flat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes that several sets contain, ascending, and the number of these sets, int64."""
    ordered = np.sort(flat)
    shared, repeats = np.unique(ordered[1:][ordered[1:] == ordered[:-1]], return_counts=True)
    return shared, repeats + 1


def _link(owner: np.ndarray, hashes: np.ndarray, sizes: np.ndarray, count: int) -> np.ndarray:
    """Pair each set with the next `LINKS` sets, in order of size, that share a hash; return distinct pairs as numbers.

    owner: set of each hash; hashes: ascending.
    """
    order = np.lexsort((owner, sizes[owner], hashes))
    owner, hashes = owner[order].astype(np.int64), hashes[order]
    pair_keys = [np.zeros(0, np.int64)]
    for step in range(1, LINKS + 1):
        same = hashes[step:] == hashes[:-step]
        low, high = np.minimum(owner[step:], owner[:-step])[same], np.maximum(owner[step:], owner[:-step])[same]
        pair_keys.append(np.unique(low * count + high))
    return np.unique(np.concatenate(pair_keys))
