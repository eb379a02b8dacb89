"""BM25 over the postings of a snapshot, in compiled code, with Lucene's own arithmetic.

Scores and ranking are those of Lucene's `BM25Similarity` (Lucene 9): weights in float32, summed in float64, rounded to
float32; equal scores are ordered by snapshot row. Robertson and Zaragoza, "The Probabilistic Relevance Framework: BM25
and Beyond", 2009.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import pyarrow.parquet as pq

from tasks.core.base.mapped_arrays import map_array
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Postings
from tasks.core.base.settings import cores
from tasks.core.retrieval.analyzer import Analyzer
from tasks.core.retrieval.bm25_kernel import rank, score, weigh
from tasks.core.retrieval.postings_format import DOCUMENTS, FREQUENCIES, NORMS, TERMS, decoded_lengths
from tasks.core.retrieval.query_lines import one_line

BYTES_PER_POSTING = 8  # in memory: a row and an impact
BATCH = 256  # queries that a thread answers with one accumulator
SPAN = 65_536  # passages in an accumulator: 0.5 MB, so it stays in the processor's cache
Weights = tuple[np.ndarray, np.ndarray]  # term numbers int64 (n,), their counts in the query float32 (n,)
T = TypeVar("T")
Hits = tuple[np.ndarray, np.ndarray]  # passage rows int32 (n,), scores float32 (n,)


def open_scorer(postings: Postings, ranking: Ranking) -> Bm25Scorer:
    """Open the postings with the BM25 parameters of a ranking."""
    return Bm25Scorer(postings, ranking.language, ranking.stemmer, ranking.k1, ranking.b)


class Bm25Scorer:
    """BM25 over one snapshot. Thread-safe. Memory: 8 bytes per posting, and 0.8 MB per thread."""

    def __init__(self, postings: Postings, language: str, stemmer: str, k1: float, b: float) -> None:
        folder = postings.path
        table = pq.read_table(folder / TERMS)
        self.rows = postings.rows
        self._numbers = {term: number for number, term in enumerate(table["term"].to_pylist())}
        self._ends = np.concatenate([[0], table["end"].to_numpy()])
        self._documents = map_array(folder / DOCUMENTS, np.int32)
        norms = np.fromfile(folder / NORMS, np.uint8)
        idf = _idf(np.diff(self._ends), postings.documents)
        inverse = _inverse_norms(postings, k1, b)[norms]
        self._impacts = np.empty(len(self._documents), np.float32)
        frequencies = map_array(folder / FREQUENCIES, np.uint16)
        weigh(self._ends, idf, self._documents, frequencies, inverse, self._impacts)
        self._language, self._analyzer = language, Analyzer(language, stemmer)

    def weights(self, query: str) -> Weights:
        """Analyze a query into its indexed terms and their counts."""
        terms = self._analyzer.terms(one_line(query, self._language))
        counts = Counter(term for term in terms if term in self._numbers)
        numbers = np.fromiter((self._numbers[term] for term in counts), np.int64, len(counts))
        return numbers, np.fromiter(counts.values(), np.float32, len(counts))

    def search(self, queries: Sequence[str], depth: int, threads: int = 1) -> list[Hits]:
        """Return snapshot rows int32 (n,) and scores float32 (n,) of the best passages for each query, best first.

        At most `depth` passages that share a term with the query; equal scores by lower row.
        """
        return _in_batches(queries, lambda part: self._search([self.weights(query) for query in part], depth), threads)

    def search_weighted(self, weights: Sequence[Weights], depth: int, threads: int = 1) -> list[Hits]:
        """Like `search`, for the weights of queries."""
        return _in_batches(weights, lambda part: self._search(part, depth), threads)

    def scores(self, weights: Weights, rows: np.ndarray) -> np.ndarray:
        """Return the scores float32 (n,) of given snapshot rows int (n,) for the weights of a query; 0: no term."""
        numbers, counts = weights
        scores = np.empty(len(rows), np.float32)
        score(numbers, counts, self._ends, self._documents, self._impacts, np.asarray(rows, np.int64), scores)
        return scores

    def _search(self, weights: Sequence[Weights], depth: int) -> list[Hits]:
        depth = min(depth, self.rows)
        ends = np.cumsum([0, *(len(numbers) for numbers, _ in weights)])
        numbers = np.concatenate([numbers for numbers, _ in weights])
        repeated = np.concatenate([counts for _, counts in weights]).astype(np.float32)
        rows, scores = np.empty((len(weights), depth), np.int32), np.empty((len(weights), depth), np.float32)
        counts = np.zeros(len(weights), np.int64)
        rank(ends, numbers, repeated, self._ends, self._documents, self._impacts, self.rows, SPAN, rows, scores, counts)
        answers = []
        for query, count in enumerate(counts):
            order = np.lexsort((rows[query, :count], -scores[query, :count]))
            answers.append((rows[query, order], scores[query, order]))
        return answers


def _in_batches(items: Sequence[T], search: Callable[[Sequence[T]], list[Hits]], threads: int) -> list[Hits]:
    """Search batches of `items`, with `threads` at once (0: one per core). Return the hits of each item."""
    batches = [items[first : first + BATCH] for first in range(0, len(items), BATCH)]
    if len(batches) == 1 or threads == 1:
        return [hits for batch in batches for hits in search(batch)]
    with ThreadPoolExecutor(threads or cores()) as pool:
        return [hits for answers in pool.map(search, batches) for hits in answers]


def _idf(frequencies: np.ndarray, documents: int) -> np.ndarray:
    """Return ln(1 + (N - n + 0.5) / (n + 0.5)) for each term: float32."""
    return np.log(1 + (documents - frequencies + 0.5) / (frequencies + 0.5)).astype(np.float32)


def _inverse_norms(postings: Postings, k1: float, b: float) -> np.ndarray:
    """Return 1 / (k1 · (1 - b + b · length / average length)) for each encoded length: float32 (256,)."""
    unit, k, share = np.float32(1), np.float32(k1), np.float32(b)
    average = np.float32(max(1, postings.tokens) / max(1, postings.documents))
    lengths = decoded_lengths().astype(np.float32)
    with np.errstate(divide="ignore"):
        return unit / (k * ((unit - share) + share * lengths / average))
