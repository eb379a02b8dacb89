"""Exact search by inner product over embedding shards, one block of vectors in memory at a time.

Blocks have a fixed number of snapshot rows, whatever the number of shards, so that the same vectors
give the same scores to the last bit however they are divided into files.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings
from tasks.core.embedding.stored_shards import matrix, shard_files

BLOCK_ROWS = 8192  # vectors read at once
BLOCK_QUERIES = 1024  # query vectors multiplied with them at once: 32 MiB of scores
PAIRS_AT_ONCE = 16_384  # (query, passage) pairs scored at once


def exact_search(query_vectors: np.ndarray, embeddings: Embeddings, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """The `depth` passages of largest inner product for each query.

    query_vectors: float32 (queries, dimension). Returns snapshot rows int64 and scores float32, both
    (queries, min(depth, passages)), best first; of equal scores the lower row comes first.

    Raises Mismatch when the dimensions differ or a vector holds a value that is not finite.
    """
    _check(query_vectors, embeddings)
    width = min(depth, embeddings.rows)
    rows = np.full((len(query_vectors), width), -1, np.int64)
    scores = np.full((len(query_vectors), width), -np.inf, np.float32)
    if width == 0:
        return rows, scores
    for first, block in vector_blocks(embeddings):
        for start in range(0, len(query_vectors), BLOCK_QUERIES):
            part = slice(start, start + BLOCK_QUERIES)
            _merge(query_vectors[part] @ block.T, first, rows[part], scores[part])
    if (rows < 0).any():
        raise Mismatch(f"embeddings {embeddings.digest}: vectors that are not finite; embed this snapshot again")
    return rows, scores


def _merge(new: np.ndarray, first: int, rows: np.ndarray, scores: np.ndarray) -> None:
    """Put the block's scores `new` (queries, block), of rows from `first`, into the running best, in place."""
    width = scores.shape[1]
    passing = new > scores[:, -1:]  # strictly: an equal score in a later row loses
    if new.shape[1] > width and passing.sum() > 4 * scores.size:
        floor = np.partition(new, -width, axis=1)[:, -width:][:, :1]
        passing &= new >= floor
    query, column = np.nonzero(passing)
    if len(query) == 0:
        return
    touched = np.unique(query)
    all_query = np.concatenate([np.repeat(touched, width), query])
    all_row = np.concatenate([rows[touched].ravel(), column + first])
    all_score = np.concatenate([scores[touched].ravel(), new[query, column]])
    order = np.lexsort((np.where(all_row < 0, np.iinfo(np.int64).max, all_row), -all_score, all_query))
    starts = np.searchsorted(all_query[order], touched)
    best = order[starts[:, None] + np.arange(width)]
    rows[touched], scores[touched] = all_row[best], all_score[best]


def score_pairs(
    query_vectors: np.ndarray, embeddings: Embeddings, query_rows: np.ndarray, passage_rows: np.ndarray
) -> np.ndarray:
    """Inner products float32 (n,) of the pairs (query_rows[i], passage_rows[i]), in one pass over the shards.

    query_vectors: float32 (queries, dimension); query_rows, passage_rows: integers (n,), snapshot rows for passages.

    Raises Mismatch when a passage has no finite vector.
    """
    _check(query_vectors, embeddings)
    scores = np.full(len(passage_rows), np.nan, np.float32)
    for first, block, wanted in _blocks_with(embeddings, passage_rows):
        for start in range(0, len(wanted), PAIRS_AT_ONCE):
            some = wanted[start : start + PAIRS_AT_ONCE]
            left, right = query_vectors[query_rows[some]], block[passage_rows[some] - first]
            scores[some] = np.einsum("ij,ij->i", left, right)
    if not np.isfinite(scores).all():
        raise Mismatch(f"embeddings {embeddings.digest}: a passage has no finite vector; embed this snapshot again")
    return scores


def vectors_of(embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
    """The vectors float32 (n, dimension) of snapshot rows int64 (n,), in the order asked for."""
    vectors = np.full((len(rows), embeddings.dimension), np.nan, np.float32)
    for first, block, wanted in _blocks_with(embeddings, rows):
        vectors[wanted] = block[rows[wanted] - first]
    return vectors


def passage_ids(embeddings: Embeddings, rows: np.ndarray) -> pa.ChunkedArray:
    """The ids of snapshot rows int64 (n,), in the order asked for."""
    return ids_of(shard_files(embeddings), rows)


def ids_of(files: Sequence[Path], rows: np.ndarray) -> pa.ChunkedArray:
    """Strings (n,): column `passage_id` of Parquet files read one after the other, at row numbers int64 (n,).

    Raises Mismatch when the files have fewer rows.
    """
    unique, back = np.unique(rows, return_inverse=True)
    parts, first = [], 0
    for file in files:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BLOCK_ROWS, columns=["passage_id"]):
            low, high = np.searchsorted(unique, (first, first + batch.num_rows))
            parts.append(batch["passage_id"].take(pa.array(unique[low:high] - first)))
            first += batch.num_rows
    if len(unique) and (unique[0] < 0 or unique[-1] >= first):
        raise Mismatch(f"{files[0].parent}: row {unique[-1]} asked for, {first} there; it belongs to other data")
    return pa.chunked_array(parts, pa.string()).take(pa.array(back))


def vector_blocks(embeddings: Embeddings) -> Iterator[tuple[int, np.ndarray]]:
    """(first snapshot row, vectors float32 (≤ BLOCK_ROWS, dimension)) over all shards, in snapshot order.

    Raises Mismatch when the shards do not hold as many rows as their receipt says.
    """
    held: list[np.ndarray] = []
    first = waiting = 0
    for file in shard_files(embeddings):
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BLOCK_ROWS, columns=["vector"]):
            part = matrix(batch["vector"], embeddings.dimension).astype(np.float32, copy=False)
            while waiting + len(part) >= BLOCK_ROWS:
                cut = BLOCK_ROWS - waiting
                yield first, np.concatenate([*held, part[:cut]])
                first, part, held, waiting = first + BLOCK_ROWS, part[cut:], [], 0
            held.append(part)
            waiting += len(part)
    if waiting:
        yield first, np.concatenate(held)
    if first + waiting != embeddings.rows:
        raise Mismatch(f"embeddings {embeddings.digest}: {first + waiting} vectors, the receipt says {embeddings.rows}")


def _blocks_with(embeddings: Embeddings, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """The blocks that hold any of `rows`, each with the positions in `rows` that lie in it."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    if len(rows) and (ordered[0] < 0 or ordered[-1] >= embeddings.rows):
        raise Mismatch(f"embeddings {embeddings.digest}: row {ordered[-1]} asked for, {embeddings.rows} there")
    for first, block in vector_blocks(embeddings):
        low, high = np.searchsorted(ordered, (first, first + len(block)))
        if low < high:
            yield first, block, order[low:high]


def _check(query_vectors: np.ndarray, embeddings: Embeddings) -> None:
    if query_vectors.ndim != 2 or query_vectors.shape[1] != embeddings.dimension:
        raise Mismatch(
            f"query vectors {query_vectors.shape} against passages of dimension {embeddings.dimension}:"
            " two encoders; encode the queries with the encoder that made the embeddings"
        )
    if not np.isfinite(query_vectors).all():
        raise Mismatch("query vectors hold values that are not finite; the encoder that made them is broken")
