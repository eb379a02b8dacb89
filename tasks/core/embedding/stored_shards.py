"""Read shards from disk: file names, checksums compared with the receipt, and vectors by row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.checksums import check_digest
from tasks.core.base.errors import Damaged, Mismatch
from tasks.core.base.receipts import Embeddings


def shard_name(rank: int, world_size: int) -> str:
    """Return the file name of shard `rank` of `world_size`."""
    return f"shard-{rank:05d}-of-{world_size:05d}.parquet"


def first_row_of(rows: int, rank: int, world_size: int) -> int:
    """Return the first row of shard `rank`. Shards differ in size by at most one row."""
    return rows * rank // world_size


def shard_files(embeddings: Embeddings) -> list[Path]:
    """Return the shards in snapshot order. Each process verifies each file once.

    Raises Mismatch when a shard is missing, and Damaged when its checksum does not match the receipt.
    """
    files = sorted(embeddings.path.glob("shard-*-of-*.parquet"))
    if len(files) != embeddings.shards:
        raise Mismatch(
            f"{embeddings.path}: {len(files)} shards, but the receipt lists {embeddings.shards}; embed again"
        )
    for file, digest in zip(files, embeddings.digests, strict=False):
        try:
            check_digest(file, digest)
        except Damaged as error:
            raise Damaged(f"{error}. Run a night: it sets the damaged embeddings aside and embeds again.") from error
    return files


def read_vectors(files: Sequence[Path], rows: np.ndarray, dimension: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Read the vectors of some rows, one row group at a time. Row groups without any of the rows are skipped.

    rows: int64 (n,), numbered across all files.

    Yields (positions in `rows` int64 (m,), vectors (m, dimension) in the stored number format).
    """
    order = np.argsort(rows, kind="stable")
    ordered, first = rows[order], 0
    for file in files:
        with pq.ParquetFile(file, pre_buffer=False) as parquet:
            for group in range(parquet.num_row_groups):
                size = parquet.metadata.row_group(group).num_rows
                low, high = np.searchsorted(ordered, (first, first + size))
                if low < high:
                    column = parquet.read_row_group(group, columns=["vector"])["vector"].combine_chunks()
                    yield order[low:high], matrix(column, dimension)[ordered[low:high] - first]
                first += size


def matrix(column: pa.Array, dimension: int) -> np.ndarray:
    """Return a column of fixed-size lists as an array (rows, dimension), in the stored number format.

    Raises Mismatch when a list is null or has another length.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if column.type.list_size != dimension or pc.any(pc.is_null(column)).as_py():
        raise Mismatch(f"embeddings: vectors of {column.type}, but {dimension} numbers each were expected")
    numbers: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, dimension)
