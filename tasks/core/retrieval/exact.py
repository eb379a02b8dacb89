"""Search embedding shards exactly by inner product, with one block of vectors in memory at a time.

A block has a fixed number of snapshot rows, independent of the shards. So the same vectors give bit-identical scores,
however they are divided into files.
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
BLOCK_QUERIES = 1024  # query vectors multiplied with a block at once: 32 MiB of scores
PAIRS_AT_ONCE = 16_384  # (query, passage) pairs scored at once


def exact_search(query_vectors: np.ndarray, embeddings: Embeddings, depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Find the `depth` passages with the largest inner product for each query.

    query_vectors: float32 (queries, dimension). Returns snapshot rows int64 and scores float32, both
    (queries, min(depth, passages)), best first; ties by lower row.

    Raises Mismatch when the dimensions differ or a vector has NaN or infinite values.
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
        raise Mismatch(f"embeddings {embeddings.digest}: some vectors are not finite; embed this snapshot again")
    return rows, scores


def _merge(new: np.ndarray, first: int, rows: np.ndarray, scores: np.ndarray) -> None:
    """Merge the scores `new` (queries, block) of a block that starts at row `first` into the best so far, in place."""
    width = scores.shape[1]
    passing = new > scores[:, -1:]  # strict, because of equal scores the earlier row wins
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
    """Compute inner products float32 (n,) of the pairs (query_rows[i], passage_rows[i]), in one pass over the shards.

    query_vectors: float32 (queries, dimension); query_rows, passage_rows: integers (n,), snapshot rows for passages.

    Raises Mismatch when a passage has no finite vector.
    """
    _check(query_vectors, embeddings)
    scores = np.full(len(passage_rows), np.nan, np.float32)
    for first, block, positions in _blocks_with(embeddings, passage_rows):
        for start in range(0, len(positions), PAIRS_AT_ONCE):
            batch_positions = positions[start : start + PAIRS_AT_ONCE]
            left, right = query_vectors[query_rows[batch_positions]], block[passage_rows[batch_positions] - first]
            scores[batch_positions] = np.einsum("ij,ij->i", left, right)
    if not np.isfinite(scores).all():
        raise Mismatch(f"embeddings {embeddings.digest}: a passage has no finite vector; embed this snapshot again")
    return scores


def vectors_of(embeddings: Embeddings, rows: np.ndarray) -> np.ndarray:
    """Return the vectors float32 (n, dimension) of snapshot rows int64 (n,), in the given order."""
    vectors = np.full((len(rows), embeddings.dimension), np.nan, np.float32)
    for first, block, positions in _blocks_with(embeddings, rows):
        vectors[positions] = block[rows[positions] - first]
    return vectors


def passage_ids(embeddings: Embeddings, rows: np.ndarray) -> pa.ChunkedArray:
    """Return the ids of snapshot rows int64 (n,), in the given order."""
    return ids_of(shard_files(embeddings), rows)


def ids_of(files: Sequence[Path], rows: np.ndarray) -> pa.ChunkedArray:
    """Read column `passage_id` of Parquet files at row numbers int64 (n,), counted across the files.

    Returns strings (n,), in the order of `rows`. Raises Mismatch when the files have fewer rows.
    """
    unique, back = np.unique(rows, return_inverse=True)
    parts, first = [], 0
    for file in files:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BLOCK_ROWS, columns=["passage_id"]):
            low, high = np.searchsorted(unique, (first, first + batch.num_rows))
            parts.append(batch["passage_id"].take(pa.array(unique[low:high] - first)))
            first += batch.num_rows
    if len(unique) and (unique[0] < 0 or unique[-1] >= first):
        raise Mismatch(
            f"{files[0].parent}: row {unique[-1]} requested, but there are {first} rows; the rows belong to other data"
        )
    return pa.chunked_array(parts, pa.string()).take(pa.array(back))


def vector_blocks(embeddings: Embeddings) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (first snapshot row, vectors float32 (≤ BLOCK_ROWS, dimension)) for all shards, in snapshot order.

    Raises Mismatch when the number of rows in the shards differs from their receipt.
    """
    buffered: list[np.ndarray] = []
    first = buffered_rows = 0
    for file in shard_files(embeddings):
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(BLOCK_ROWS, columns=["vector"]):
            part = matrix(batch["vector"], embeddings.dimension).astype(np.float32, copy=False)
            while buffered_rows + len(part) >= BLOCK_ROWS:
                cut = BLOCK_ROWS - buffered_rows
                yield first, np.concatenate([*buffered, part[:cut]])
                first, part, buffered, buffered_rows = first + BLOCK_ROWS, part[cut:], [], 0
            buffered.append(part)
            buffered_rows += len(part)
    if buffered_rows:
        yield first, np.concatenate(buffered)
    if first + buffered_rows != embeddings.rows:
        raise Mismatch(
            f"embeddings {embeddings.digest}: {first + buffered_rows} vectors, the receipt lists {embeddings.rows}"
        )


def _blocks_with(embeddings: Embeddings, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Yield the blocks that contain any of `rows`: (first row, vectors, positions in `rows` that fall in the block)."""
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    if len(rows) and (ordered[0] < 0 or ordered[-1] >= embeddings.rows):
        raise Mismatch(
            f"embeddings {embeddings.digest}: row {ordered[-1]} requested, but there are {embeddings.rows} rows"
        )
    for first, block in vector_blocks(embeddings):
        low, high = np.searchsorted(ordered, (first, first + len(block)))
        if low < high:
            yield first, block, order[low:high]


def _check(query_vectors: np.ndarray, embeddings: Embeddings) -> None:
    if query_vectors.ndim != 2 or query_vectors.shape[1] != embeddings.dimension:
        raise Mismatch(
            f"query vectors {query_vectors.shape} do not match passages of dimension {embeddings.dimension}:"
            " they come from two encoders; encode the queries with the encoder that made the embeddings"
        )
    if not np.isfinite(query_vectors).all():
        raise Mismatch("query vectors have values that are not finite; the encoder that made them is broken")
