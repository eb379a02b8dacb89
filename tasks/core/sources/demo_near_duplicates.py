"""Finds near duplicates of texts: MinHash (Broder 1997) selects candidates, exact Jaccard similarity decides.

MinHash misses some near duplicates: 49 of the 9,761 demo passages have one. An exact search would therefore change the
demo collection, and with it the digests of every home that has one.
"""

from __future__ import annotations

from typing import Any

from tasks.core.text.words import alphanumeric_words

_PERMUTATIONS = 64


class NearDuplicates:
    """A growing set of texts that finds near duplicates of a new text."""

    def __init__(self, threshold: float, shingle: int) -> None:
        """Set the least Jaccard similarity of near duplicates, and the number of words per shingle."""
        from datasketch import MinHashLSH

        self._threshold, self._shingle = threshold, shingle
        # Weighted towards recall: `find` drops the false positives.
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, weights=(0.1, 0.9))
        self._shingles: dict[str, frozenset[str]] = {}

    def add(self, key: str, text: str) -> None:
        """Add `text` under `key`, which must be new."""
        shingles = _shingles(text, self._shingle)
        self._shingles[key] = shingles
        self._index.insert(key, _sketch(shingles))

    def find(self, text: str) -> str | None:
        """Return the key of a stored near duplicate of `text`, or None."""
        shingles = _shingles(text, self._shingle)
        for key in sorted(self._index.query(_sketch(shingles))):
            other = self._shingles[key]
            # MinHash alone also returns many texts that share only half of their shingles.
            if len(shingles & other) >= self._threshold * len(shingles | other):
                return str(key)
        return None


def _shingles(text: str, size: int) -> frozenset[str]:
    words = alphanumeric_words(text)
    return frozenset(" ".join(words[start : start + size]) for start in range(max(1, len(words) - size + 1)))


def _sketch(shingles: frozenset[str]) -> Any:
    from datasketch import MinHash

    sketch = MinHash(num_perm=_PERMUTATIONS, seed=1)
    sketch.update_batch([shingle.encode() for shingle in shingles])
    return sketch
