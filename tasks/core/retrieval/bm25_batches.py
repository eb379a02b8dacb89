"""Search many queries with BM25 over the postings of a snapshot, after a comparison with Lucene on a sample."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence

import numpy as np

from tasks.core.base.receipts import Postings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import cores
from tasks.core.retrieval.bm25_scorer import BYTES_PER_POSTING, Bm25Scorer

log = logging.getLogger("nightshift.mining")

SAMPLE = 50  # queries that Lucene searches too
TOLERANCE = 1e-5  # difference of scores that are the same; Lucene's output has six decimals
MEMORY_SHARE = 0.5  # of the host's memory that postings may take

LuceneHits = tuple[np.ndarray, np.ndarray, np.ndarray]  # query rows int64, document rows int64, scores float64
SearchLucene = Callable[[Sequence[str]], LuceneHits]


def fits_memory(postings: Postings) -> bool:
    """Return whether the postings take at most half of the host's memory; otherwise Lucene searches from disk."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return postings.postings * BYTES_PER_POSTING <= MEMORY_SHARE * memory


def search_batch(scorer: Bm25Scorer, texts: Sequence[str], depth: int, mining: MiningSettings) -> LuceneHits:
    """Find the best `depth` passages for each query, best first; rows of queries count from 0."""
    hits = scorer.search(texts, depth, mining.threads or cores())
    query = np.repeat(np.arange(len(texts)), [len(rows) for rows, _ in hits])
    rows = np.concatenate([rows for rows, _ in hits]).astype(np.int64)
    return query, rows, np.concatenate([scores for _, scores in hits]).astype(np.float64)


def equals_lucene(
    scorer: Bm25Scorer, texts: Sequence[str], depth: int, mining: MiningSettings, search_lucene: SearchLucene
) -> bool:
    """Compare the rankings of a sample of the queries with Lucene's; log a warning and return False if one differs.

    Passages whose scores differ by less than `TOLERANCE` may have another order: Lucene rounds the scores it writes.
    """
    sample = [texts[row] for row in np.linspace(0, len(texts) - 1, min(SAMPLE, len(texts))).astype(int)]
    ours, theirs = search_batch(scorer, sample, depth, mining), search_lucene(sample)
    for row, text in enumerate(sample):
        our_rows, our_scores = (column[ours[0] == row] for column in ours[1:])
        their_rows, their_scores = (column[theirs[0] == row] for column in theirs[1:])
        same = len(our_rows) == len(their_rows) and bool(np.all(np.abs(our_scores - their_scores) <= TOLERANCE))
        if not same or not _same_but_ties(our_rows, their_rows, their_scores):
            log.warning(
                "BM25: the compiled search and Lucene rank the query %r differently; Lucene searches all queries. "
                "Please report this with the query",
                text[:200],
            )
            return False
    return True


def _same_but_ties(ours: np.ndarray, theirs: np.ndarray, scores: np.ndarray) -> bool:
    """Whether two rankings of equal scores differ only among passages with nearly the same score."""
    moved = np.flatnonzero(ours != theirs)
    place = {row: position for position, row in enumerate(theirs.tolist())}
    last = scores[-1] if len(scores) else 0.0
    # A passage that only one of them returns must be tied with the last.
    their_scores = np.array([scores[place[row]] if row in place else last for row in ours[moved].tolist()])
    return bool(np.all(np.abs(their_scores - scores[moved]) <= TOLERANCE))
