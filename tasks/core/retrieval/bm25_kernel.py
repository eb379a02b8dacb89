"""Compiled loops of BM25. Numba compiles them at first use (seconds) and keeps the machine code next to this file.

They release the interpreter lock, so threads run in parallel. No fast math: sums and products round as in Lucene.
"""
# mypy: disable-error-code="no-untyped-def,untyped-decorator"

from __future__ import annotations

import numba
import numpy as np

compiled = numba.njit(nogil=True, cache=True)


@compiled
def weigh(ends, idf, documents, frequencies, inverse, impacts):  # pragma: no cover
    """Set the impact of each posting: idf - idf / (1 + frequency / norm), in float32.

    Args:
        ends: end of each term's postings, int64 (terms + 1,), from 0.
        idf: inverse document frequency of each term, float32 (terms,).
        documents: passage row of each posting, int32 (postings,).
        frequencies: occurrences of the term in the passage, uint16 (postings,).
        inverse: 1 / norm of each passage, float32 (passages,).
        impacts: result, float32 (postings,).
    """
    for term in range(len(idf)):
        for posting in range(ends[term], ends[term + 1]):
            saturation = np.float32(1) + np.float32(frequencies[posting]) * inverse[documents[posting]]
            impacts[posting] = idf[term] - idf[term] / saturation


@compiled
def rank(query_ends, terms, counts, ends, documents, impacts, size, span, rows, scores, sizes):  # pragma: no cover
    """Score every passage that shares a term with a query, and keep the best, in no order.

    Args:
        query_ends: end of each query's terms in `terms` and `counts`, int64 (queries + 1,), from 0.
        terms, counts: number and count of each term of each query, int64 and float32.
        ends, documents, impacts: postings, as for `weigh`.
        size: number of passages.
        span: passages that are scored at once; their totals should fit into the processor's cache.
        rows, scores: results, int32 and float32 (queries, depth).
        sizes: number of results of each query, int64 (queries,).
    """
    totals, touched = np.zeros(min(size, span), np.float64), np.empty(min(size, span) + 1, np.int32)
    starts = np.empty(np.max(np.diff(query_ends)) if len(query_ends) > 1 else 0, np.int64)
    for query in range(len(query_ends) - 1):
        first_place, kept = query_ends[query], 0
        for place in range(first_place, query_ends[query + 1]):
            starts[place - first_place] = ends[terms[place]]
        for first in range(0, size, span):
            reached = 0
            for place in range(first_place, query_ends[query + 1]):
                count, start, end = counts[place], starts[place - first_place], ends[terms[place] + 1]
                if first + span < size:
                    end = start + np.searchsorted(documents[start:end], first + span)
                for posting in range(start, end):
                    row = documents[posting] - first
                    touched[reached] = row  # overwritten unless the passage is new: faster than a branch
                    reached += totals[row] == 0.0
                    totals[row] += count * impacts[posting]
                starts[place - first_place] = end
            kept = _keep_best(totals, touched[:reached], first, rows[query], scores[query], kept)
        sizes[query] = kept


@compiled
def score(terms, counts, ends, documents, impacts, rows, scores):  # pragma: no cover
    """Score given passages for one query.

    Args:
        terms, counts: number and count of each term, int64 and float32.
        ends, documents, impacts: postings, as for `weigh`.
        rows: passages, int64 (n,).
        scores: result, float32 (n,).
    """
    for place in range(len(rows)):
        total = 0.0
        for term in range(len(terms)):
            start, end = ends[terms[term]], ends[terms[term] + 1]
            posting = start + np.searchsorted(documents[start:end], rows[place])
            if posting < end and documents[posting] == rows[place]:
                total += counts[term] * impacts[posting]
        scores[place] = np.float32(total)


@compiled
def _keep_best(totals, touched, first, rows, scores, kept):  # pragma: no cover
    """Add passages to a binary heap of the best, whose worst is first; reset `totals`. Return the size of the heap.

    totals: of the passages from row `first`; touched: rows from `first` with a total; kept: size of the heap so far.
    """
    for place in touched:
        score, row = np.float32(totals[place]), place + first
        totals[place] = 0.0
        if kept < len(rows):
            _rise(rows, scores, kept, row, score)
            kept += 1
        elif _is_worse(scores[0], rows[0], score, row):
            _sink(rows, scores, kept, row, score)
    return kept


@compiled
def _is_worse(score, row, other_score, other_row):  # pragma: no cover
    """Whether a passage ranks after another: by score, then by row."""
    return score < other_score or (score == other_score and row > other_row)


@compiled
def _rise(rows, scores, place, row, score):  # pragma: no cover
    """Insert a passage at the end of the heap, and move it up while it is worse than its parent."""
    while place > 0:
        parent = (place - 1) >> 1
        if not _is_worse(score, row, scores[parent], rows[parent]):
            break
        scores[place], rows[place] = scores[parent], rows[parent]
        place = parent
    scores[place], rows[place] = score, row


@compiled
def _sink(rows, scores, kept, row, score):  # pragma: no cover
    """Replace the worst passage of the heap, and move the new one down while a child is worse."""
    place = 0
    while True:
        child = 2 * place + 1
        if child + 1 < kept and _is_worse(scores[child + 1], rows[child + 1], scores[child], rows[child]):
            child += 1
        if child >= kept or not _is_worse(scores[child], rows[child], score, row):
            break
        scores[place], rows[place] = scores[child], rows[child]
        place = child
    scores[place], rows[place] = score, row
