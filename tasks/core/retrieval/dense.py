"""Runs of a dense encoder: exact search over the embeddings, in the same form as a BM25 run."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Run
from tasks.core.retrieval.exact import exact_search, passage_ids, score_pairs, vector_blocks
from tasks.core.retrieval.runs import HITS_AT_ONCE, QueryVectors, queries_digest, vectors_digest, vectors_of
from tasks.core.retrieval.searches import Hits, Search, search_whole

VERSION = 3  # of what this file writes; a change makes new artifacts
SPARE = 8  # passages looked at beyond `depth`, so that the order at the cut is certain


def dense_run(
    home: Path,
    name: str,
    queries: pa.Table,
    query_vectors: QueryVectors,
    embeddings: Embeddings,
    depth: int,
) -> Run:
    """Search every query (query_id, text) exactly for its `depth` best passages, in one piece; see `dense_search`."""
    return search_whole(dense_search(home, name, queries, query_vectors, embeddings, depth))


def dense_search(
    home: Path,
    name: str,
    queries: pa.Table,
    query_vectors: QueryVectors,
    embeddings: Embeddings,
    depth: int,
) -> Search:
    """The exact search of every query (query_id, text) for its `depth` best passages.

    `name` says what the run is for. query_vectors: float32 (queries, dimension), row i for query i, or `Later` ones,
    not made when the run is there; several query encoders may share the embeddings, so the vectors themselves name
    the run. Equal scores are ordered by snapshot row. The run has the same bytes on any number of threads.

    Raises, when it is made, Mismatch where the vectors are not one a query, or not of the embeddings' dimension.
    """
    key = {
        "retriever": name,
        "embeddings": embeddings.digest,
        "vectors": vectors_digest(query_vectors),
        "queries": queries_digest(queries),
        "depth": depth,
        "version": VERSION,
    }

    @cache
    def longest() -> float:
        return max((float(np.linalg.norm(block, axis=1).max()) for _, block in vector_blocks(embeddings)), default=0)

    def answer(folder: Path, start: int, end: int) -> Hits:
        vectors = vectors_of(query_vectors)
        if len(vectors) != queries.num_rows:
            raise Mismatch(f"dense run {name!r}: {len(vectors)} vectors for {queries.num_rows} queries")
        rows, scores = certain_search(vectors[start:end], embeddings, depth, longest())
        hits = np.repeat(np.arange(start, end), rows.shape[1])
        return hits, passage_ids(embeddings, rows.ravel()), scores.ravel()

    title, at_once = f"{embeddings.rows:,} vectors", max(1, HITS_AT_ONCE // (depth + SPARE))
    return Search(title, home, key, queries, depth, at_once, (embeddings.digest,), answer)


def certain_search(
    query_vectors: np.ndarray, embeddings: Embeddings, depth: int, longest: float
) -> tuple[np.ndarray, np.ndarray]:
    """`exact_search` whose outcome does not hang on the last bits of its sums; `longest` is the greatest vector norm.

    A matrix product adds up in an order that changes with threads and block shapes. So the best `depth` and some more
    are found by it and scored anew one by one, in one fixed order; and where the rounding error that is possible at
    most could still bring another passage in, more are looked at. Shapes as those of `exact_search`.
    """
    width = min(depth, embeddings.rows)
    rows = np.zeros((len(query_vectors), width), np.int64)
    scores = np.zeros((len(query_vectors), width), np.float32)
    norms = np.linalg.norm(query_vectors, axis=1)
    error = 2 * query_vectors.shape[1] * np.finfo(np.float32).eps * norms * longest  # Higham 2002, of both sums
    open_, wide = np.arange(len(query_vectors)), min(width + SPARE, embeddings.rows)
    while len(open_):
        found, rough = exact_search(query_vectors[open_], embeddings, wide)
        flat = score_pairs(query_vectors[open_], embeddings, np.repeat(np.arange(len(open_)), wide), found.ravel())
        exact = flat.reshape(found.shape)
        order = np.lexsort((found, -exact), axis=1)[:, :width]
        best = np.take_along_axis(exact, order, axis=1)
        rows[open_], scores[open_] = np.take_along_axis(found, order, axis=1), best
        if wide == embeddings.rows or width == 0:
            break
        open_ = open_[best[:, -1] <= rough[:, -1] + error[open_]]
        wide = min(4 * wide, embeddings.rows)
    return rows, scores
