"""Splits texts into terms and represents terms and texts as 64-bit hashes, so a vocabulary fits in memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from itertools import chain

import numpy as np

# The stop words of Lucene's EnglishAnalyzer, then typical words of questions. They do not explain drift.
STOP_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
    "about", "can", "could", "did", "do", "does", "from", "had", "has", "have", "he", "her", "his", "how", "i", "its",
    "me", "my", "she", "should", "so", "some", "than", "them", "we", "were", "what", "when", "where", "which", "who",
    "whom", "whose", "why", "would", "you", "your",
})  # fmt: skip
WORD = re.compile(r"\w+")
ALPHANUMERIC_WORD = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the lower-case terms of a text."""
    return WORD.findall(text.lower())


def alphanumeric_words(text: str) -> list[str]:
    """Return the lower-case words and numbers of a text; an underscore separates them."""
    return ALPHANUMERIC_WORD.findall(text.lower())


def hashed(texts: Iterable[str]) -> np.ndarray:
    """Return a hash for each text, uint64 (n,)."""
    return np.fromiter((int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) for text in texts), np.uint64)


def known(hashes: np.ndarray, among: np.ndarray) -> np.ndarray:
    """Return which hashes are in a sorted array.

    Args:
        hashes: uint64 (n,).
        among: Sorted uint64 (m,).

    Returns:
        bool (n,).
    """
    if not len(among):
        return np.zeros(len(hashes), bool)
    position = np.minimum(np.searchsorted(among, hashes), len(among) - 1)
    matches: np.ndarray = among[position] == hashes
    return matches


def vocabulary(texts: Iterable[str]) -> np.ndarray:
    """Return the sorted, distinct hashes of all terms, uint64. Memory grows only with the number of distinct terms."""
    return np.sort(hashed(set(chain.from_iterable(map(words_of, texts)))))


def count_terms(texts: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Count the texts that contain each term. Memory grows only with the number of distinct terms.

    Returns:
        The sorted hashes of all terms, uint64 (terms,), and the number of texts with each, int64 (terms,).
    """
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(set(words_of(text)))
    hashes = hashed(counts)
    order = np.argsort(hashes)
    return hashes[order], np.fromiter(counts.values(), np.int64, len(counts))[order]


def unseen_share(queries: Sequence[str], terms: np.ndarray) -> float:
    """Return the fraction of query terms that are not in a vocabulary.

    Typos and broken input increase it. A new topic does not, if the collection has passages about it.

    Args:
        queries: Query texts.
        terms: Sorted hashes of the vocabulary, uint64.
    """
    words = list(chain.from_iterable(map(words_of, queries)))
    distinct = sorted(set(words))
    unseen = {word for word, seen in zip(distinct, known(hashed(distinct), terms), strict=True) if not seen}
    return sum(word in unseen for word in words) / max(1, len(words))
