"""Detects near duplicates by the exact Jaccard similarity of five-word shingle sets, for many pairs at once.

Two necessary conditions are tested before the full comparison: similar set sizes, and a common hash among the smallest
hashes of both sets (prefix filtering, Chaudhuri et al. 2006).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

WORDS = 5  # words in a shingle; a shorter text is one shingle
HASHES_AT_ONCE = 2_000_000  # hashes compared at a time: about 100 MB with temporary arrays


@dataclass(frozen=True)
class ShingleSets:
    """Sets of 32-bit shingle hashes: set i is `flat[starts[i] : starts[i] + sizes[i]]`, ascending."""

    flat: np.ndarray  # uint32; may be memory-mapped
    starts: np.ndarray  # int64
    sizes: np.ndarray  # int64


def shingle(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Compute the shingle sets of texts.

    Words are sequences of letters, marks, and digits of any script, in lower case.

    Args:
        texts: Strings (n,).

    Returns:
        Hashes of all sets, uint32, in text order and ascending within a text; and set sizes, int64 (n,).
    """
    words = pc.split_pattern_regex(pc.utf8_lower(texts), r"[^\p{L}\p{M}\p{N}]+")
    owner = pc.list_parent_indices(words).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(words)
    full = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # splitting creates empty words at the ends
    hashes, owner = _word_hashes(flat)[full], owner[full]
    counts = np.bincount(owner, minlength=len(texts))
    ends = np.cumsum(counts)
    # Drop windows that would reach into the next text, but keep the first window of a short text.
    position = np.arange(len(hashes)) - (ends - counts)[owner]
    begin = np.flatnonzero((position + WORDS <= counts[owner]) | (position == 0))
    limit = ends[owner[begin]]
    mixed = np.zeros(len(begin), np.uint64)
    for offset in range(WORDS):
        at = begin + offset
        word = np.where(at < limit, hashes[np.minimum(at, len(hashes) - 1)], np.uint64(0))
        mixed = mix(mixed + word + np.uint64(0x9E3779B97F4A7C15))
    keys = np.sort((owner[begin].astype(np.uint64) << np.uint64(32)) | (mixed >> np.uint64(32)))
    keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]  # distinct hashes; twice as fast as np.unique here
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32), sizes.astype(np.int64)


def near_duplicates(sets: ShingleSets, left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """Return which pairs of sets (left[i], right[i]) have a Jaccard similarity of at least `threshold`.

    Two texts without words are not near duplicates.

    Args:
        sets: The shingle sets.
        left: Set numbers, int (n,).
        right: Set numbers, int (n,).
        threshold: Minimum Jaccard similarity, from 0 to 1.

    Returns:
        bool (n,).
    """
    result = np.zeros(len(left), bool)
    small, large = np.sort([sets.sizes[left], sets.sizes[right]], axis=0)
    close = np.flatnonzero((small > 0) & (small >= threshold * large - 1e-9))
    for batch in slices((small + large)[close], HASHES_AT_ONCE):
        pairs = close[batch]
        likely = pairs[_count_common(sets, left[pairs], right[pairs], threshold) > 0]
        common = _count_common(sets, left[likely], right[likely], None)
        union = sets.sizes[left[likely]] + sets.sizes[right[likely]] - common
        result[likely] = common >= threshold * union - 1e-9
    return result


def jaccard(sets: ShingleSets, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the Jaccard similarity of pairs of sets (left[i], right[i]), float64 (n,); 0 if both are empty."""
    result = np.zeros(len(left))
    sizes = sets.sizes[left] + sets.sizes[right]
    for batch in slices(sizes, HASHES_AT_ONCE):
        common = _count_common(sets, left[batch], right[batch], None)
        result[batch] = common / np.maximum(sizes[batch] - common, 1)
    return result


def expand(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return all numbers of the ranges [starts[i], starts[i] + sizes[i]), and the range i of each; both int64."""
    owner = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return starts[owner] + within, owner


def slices(weights: np.ndarray, limit: int) -> Iterator[slice]:
    """Divide a sequence into slices whose `weights` add up to about `limit` (more if a single item exceeds it)."""
    cuts = np.flatnonzero(np.diff(np.cumsum(weights) // limit)) + 1
    edges = [0, *cuts.tolist(), len(weights)]
    return (slice(start, end) for start, end in pairwise(edges) if start < end)


def _count_common(sets: ShingleSets, left: np.ndarray, right: np.ndarray, threshold: float | None) -> np.ndarray:
    """Count the common hashes of each pair: of the full sets (None), or of the prefixes that `threshold` requires."""
    keys = []
    for side in (left, right):
        sizes = sets.sizes[side]
        if threshold is not None:
            sizes = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
        at, pair = expand(sets.starts[side], sizes)
        keys.append((pair.astype(np.uint64) << np.uint64(32)) | sets.flat[at].astype(np.uint64))
    both = np.sort(np.concatenate(keys))
    shared = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
    return np.bincount(shared.astype(np.int64), minlength=len(left))


def _word_hashes(words: pa.Array) -> np.ndarray:
    coded = words.dictionary_encode()
    table = np.fromiter(
        (zlib.crc32(w.encode()) for w in coded.dictionary.to_pylist()), np.uint64, len(coded.dictionary)
    )
    hashes: np.ndarray = table[coded.indices.to_numpy(zero_copy_only=False)]
    return hashes


def mix(value: np.ndarray) -> np.ndarray:
    """Spread every input bit over all output bits (finalizer of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value
