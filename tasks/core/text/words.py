"""Terms and texts as 64-bit hashes, so that what a corpus knows fits in memory and is never read twice."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain

import numpy as np

# The stop words of Lucene's EnglishAnalyzer, then those that queries are asked with. They explain no drift.
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
    "about", "can", "could", "did", "do", "does", "from", "had", "has", "have", "he", "her", "his", "how", "i", "its",
    "me", "my", "she", "should", "so", "some", "than", "them", "we", "were", "what", "when", "where", "which", "who",
    "whom", "whose", "why", "would", "you", "your",
})  # fmt: skip
WORD = re.compile(r"\w+")


def words_of(text: str) -> list[str]:
    """The terms of a text, in lower case."""
    return WORD.findall(text.lower())


def hashed(texts: Iterable[str]) -> np.ndarray:
    """Hashes uint64, one a text, in the order given."""
    return np.fromiter((int.from_bytes(blake2b(one.encode(), digest_size=8).digest()) for one in texts), np.uint64)


def known(hashes: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Whether each of `hashes` uint64 (n,) stands in `among`, sorted uint64 (m,): bool (n,)."""
    if not len(among):
        return np.zeros(len(hashes), bool)
    place = np.minimum(np.searchsorted(among, hashes), len(among) - 1)
    found: np.ndarray = among[place] == hashes
    return found


def vocabulary(texts: Iterable[str]) -> np.ndarray:
    """The hashes of all terms of `texts`, sorted, each once. Memory grows with the distinct terms alone."""
    terms: set[str] = set()
    for text in texts:
        terms.update(words_of(text))
    return np.sort(hashed(terms))


def unseen_share(asked: Sequence[str], terms: np.ndarray) -> float:
    """Share of the terms of `asked` that are not among `terms`, sorted hashes uint64.

    Typos and broken input raise it; a new topic whose passages are there does not.
    """
    each = list(chain.from_iterable(map(words_of, asked)))
    distinct = sorted(set(each))
    new = {word for word, seen in zip(distinct, known(hashed(distinct), terms), strict=True) if not seen}
    return sum(word in new for word in each) / max(1, len(each))
