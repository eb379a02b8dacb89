"""Near duplicates: exact Jaccard similarity of the sets of five-word shingles, for many pairs at once.

A pair is compared in full only when it passes two tests that no pair above the threshold can fail: the sizes
are close enough, and the smallest hashes of both sets share one (prefix filtering, Chaudhuri et al. 2006).
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
HASHES_AT_ONCE = 2_000_000  # hashes laid side by side: some 100 MB with all that belongs to them


@dataclass(frozen=True)
class ShingleSets:
    """Sets of 32-bit shingle hashes: set i is `flat[starts[i] : starts[i] + sizes[i]]`, ascending."""

    flat: np.ndarray  # uint32; may lie in a mapped file
    starts: np.ndarray  # int64
    sizes: np.ndarray  # int64


def shingle(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Shingle sets of texts (strings): all hashes uint32 in text order, ascending in a text, and sizes int64.

    Words are runs of letters, marks and digits of any script, without case.
    """
    words = pc.split_pattern_regex(pc.utf8_lower(texts), r"[^\p{L}\p{M}\p{N}]+")
    owner = pc.list_parent_indices(words).to_numpy(zero_copy_only=False)
    flat = pc.list_flatten(words)
    full = pc.not_equal(flat, "").to_numpy(zero_copy_only=False)  # splitting leaves empty ends
    hashes, owner = _word_hashes(flat)[full], owner[full]
    counts = np.bincount(owner, minlength=len(texts))
    ends = np.cumsum(counts)
    # Windows that begin too late in their text would reach into the next one; a short text keeps its first.
    position = np.arange(len(hashes)) - (ends - counts)[owner]
    begin = np.flatnonzero((position + WORDS <= counts[owner]) | (position == 0))
    limit = ends[owner[begin]]
    mixed = np.zeros(len(begin), np.uint64)
    for offset in range(WORDS):
        at = begin + offset
        word = np.where(at < limit, hashes[np.minimum(at, len(hashes) - 1)], np.uint64(0))
        mixed = mix(mixed + word + np.uint64(0x9E3779B97F4A7C15))
    keys = np.sort((owner[begin].astype(np.uint64) << np.uint64(32)) | (mixed >> np.uint64(32)))
    keys = keys[np.diff(keys, prepend=~keys[:1]) != 0]  # each hash once; twice as fast as np.unique here
    sizes = np.bincount((keys >> np.uint64(32)).astype(np.int64), minlength=len(texts))
    return (keys & np.uint64(0xFFFFFFFF)).astype(np.uint32), sizes.astype(np.int64)


def near_duplicates(sets: ShingleSets, left: np.ndarray, right: np.ndarray, threshold: float) -> np.ndarray:
    """Which pairs of sets (left[i], right[i]) have a Jaccard similarity of at least `threshold`: bool (n,).

    Two texts without any word are not near duplicates.
    """
    result = np.zeros(len(left), bool)
    small, large = np.sort([sets.sizes[left], sets.sizes[right]], axis=0)
    close = np.flatnonzero((small > 0) & (small >= threshold * large - 1e-9))
    for some in slices((small + large)[close], HASHES_AT_ONCE):
        part = close[some]
        likely = part[_common(sets, left[part], right[part], threshold) > 0]
        common = _common(sets, left[likely], right[likely], None)
        union = sets.sizes[left[likely]] + sets.sizes[right[likely]] - common
        result[likely] = common >= threshold * union - 1e-9
    return result


def jaccard(sets: ShingleSets, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The Jaccard similarity of pairs of sets (left[i], right[i]), float64 (n,); 0 where neither has a word."""
    result = np.zeros(len(left))
    sizes = sets.sizes[left] + sets.sizes[right]
    for some in slices(sizes, HASHES_AT_ONCE):
        common = _common(sets, left[some], right[some], None)
        result[some] = common / np.maximum(sizes[some] - common, 1)
    return result


def expand(starts: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All numbers of the ranges [starts[i], starts[i] + sizes[i]), and beside each its i: both int64."""
    owner = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return starts[owner] + within, owner


def slices(weights: np.ndarray, limit: int) -> Iterator[slice]:
    """Cut a sequence into runs whose `weights` add up to about `limit` (more only where one item alone does)."""
    cuts = np.flatnonzero(np.diff(np.cumsum(weights) // limit)) + 1
    edges = [0, *cuts.tolist(), len(weights)]
    return (slice(start, end) for start, end in pairwise(edges) if start < end)


def _common(sets: ShingleSets, left: np.ndarray, right: np.ndarray, threshold: float | None) -> np.ndarray:
    """Hashes that the sets of each pair share: of the whole sets, or of the prefixes that `threshold` needs."""
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
    """Spread every input bit over all output bits (the finaliser of SplitMix64, Steele et al. 2014)."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    value ^= value >> np.uint64(31)
    return value
