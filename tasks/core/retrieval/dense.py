"""Make runs of a dense encoder by exact search over embeddings, in the same format as BM25 runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Run
from tasks.core.retrieval.exact import exact_search, passage_ids, score_pairs, vector_blocks
from tasks.core.retrieval.runs import HITS_AT_ONCE, QueryVectors, queries_digest, vectors_digest, vectors_of
from tasks.core.retrieval.searches import Hits, Search, search_whole

VERSION = 3  # of the artifacts that this module writes; raise it to rebuild them
SPARE = 8  # candidates beyond `depth`, to make the order at the cut certain
SearchExactly = Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]  # (vectors, depth) -> rows, scores
_longest_norms: dict[tuple[str, ...], float] = {}  # by the folder and the digests of all shards


def dense_run(
    home: Path,
    name: str,
    queries: pa.Table,
    query_vectors: QueryVectors,
    embeddings: Embeddings,
    depth: int,
    search_exactly: SearchExactly | None = None,
) -> Run:
    """Run `dense_search` in this process: find the `depth` best passages for each query (query_id, text)."""
    return search_whole(dense_search(home, name, queries, query_vectors, embeddings, depth, search_exactly))


def dense_search(
    home: Path,
    name: str,
    queries: pa.Table,
    query_vectors: QueryVectors,
    embeddings: Embeddings,
    depth: int,
    search_exactly: SearchExactly | None = None,
) -> Search:
    """Prepare the exact search for the `depth` best passages of each query (query_id, text).

    name: purpose of the run; part of its key. query_vectors: float32 (queries, dimension), row i for query i, or
        `LazyVectors`, which are not computed if the run exists. The vectors are part of the run's key, because several
        query encoders may share the embeddings. search_exactly: a search with the results of `reproducible_search`.

    Equal scores are ordered by snapshot row. The run has the same bytes on any number of threads.

    The search itself raises Mismatch when the number of vectors differs from the number of queries, or their dimension
    from that of the embeddings.
    """
    key = {
        "retriever": name,
        "embeddings": embeddings.digest,
        "vectors": vectors_digest(query_vectors),
        "queries": queries_digest(queries),
        "depth": depth,
        "version": VERSION,
    }

    longest = cache(lambda: longest_norm(embeddings))
    search = search_exactly or (lambda vectors, depth: reproducible_search(vectors, embeddings, depth, longest()))

    def answer(folder: Path, start: int, end: int) -> Hits:
        vectors = vectors_of(query_vectors)
        if len(vectors) != queries.num_rows:
            raise Mismatch(f"dense run {name!r}: {len(vectors)} vectors for {queries.num_rows} queries")
        rows, scores = search(vectors[start:end], depth)
        hits = np.repeat(np.arange(start, end), rows.shape[1])
        return hits, passage_ids(embeddings, rows.ravel()), scores.ravel()

    title, at_once = f"{embeddings.rows:,} vectors", max(1, HITS_AT_ONCE // (depth + SPARE))
    return Search(title, home, key, queries, depth, at_once, (embeddings.digest,), answer)


def longest_norm(embeddings: Embeddings) -> float:
    """Return the largest norm of a passage vector; 0 without passages. A process reads the shards for it only once."""
    key = (str(embeddings.path), *embeddings.digests)
    if key not in _longest_norms:
        norms = (float(np.linalg.norm(block, axis=1).max()) for _, block in vector_blocks(embeddings))
        _longest_norms[key] = max(norms, default=0.0)
    return _longest_norms[key]


def rounding_error(query_vectors: np.ndarray, longest: float) -> np.ndarray:
    """Return how far two sums of the same score can be apart, for each query, float32 (queries,) (Higham 2002).

    query_vectors: float32 (queries, dimension). longest: the largest norm of a passage vector.
    """
    norms = np.linalg.norm(query_vectors, axis=1)
    error: np.ndarray = 2 * query_vectors.shape[1] * np.finfo(np.float32).eps * norms * longest
    return error


def reproducible_search(
    query_vectors: np.ndarray, embeddings: Embeddings, depth: int, longest: float
) -> tuple[np.ndarray, np.ndarray]:
    """Run an exact search whose result does not depend on rounding in the matrix product.

    longest: the largest norm of a passage vector. Other arguments, and the shapes of the result, as in `exact_search`.

    A matrix product sums in an order that depends on threads and block shapes. So we use it only to find the best
    `depth` candidates and a few more, and score each of them again in a fixed order. If the maximum rounding error
    could still let another passage in, we repeat with more candidates.
    """
    width = min(depth, embeddings.rows)
    rows = np.zeros((len(query_vectors), width), np.int64)
    scores = np.zeros((len(query_vectors), width), np.float32)
    error = rounding_error(query_vectors, longest)
    pending, limit = np.arange(len(query_vectors)), min(width + SPARE, embeddings.rows)
    while len(pending):
        candidates, approximate = exact_search(query_vectors[pending], embeddings, limit)
        flat = score_pairs(
            query_vectors[pending], embeddings, np.repeat(np.arange(len(pending)), limit), candidates.ravel()
        )
        exact = flat.reshape(candidates.shape)
        order = np.lexsort((candidates, -exact), axis=1)[:, :width]
        best = np.take_along_axis(exact, order, axis=1)
        rows[pending], scores[pending] = np.take_along_axis(candidates, order, axis=1), best
        if limit == embeddings.rows or width == 0:
            break
        pending = pending[best[:, -1] <= approximate[:, -1] + error[pending]]
        limit = min(4 * limit, embeddings.rows)
    return rows, scores
