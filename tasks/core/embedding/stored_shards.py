"""Shards on disk: their names, their bytes held against what the receipt says, and vectors by row."""

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
    """The file of shard `rank` of `world_size`."""
    return f"shard-{rank:05d}-of-{world_size:05d}.parquet"


def rows_before(rows: int, rank: int, world_size: int) -> int:
    """The first of `rows` rows that belongs to shard `rank`: shards differ by one row at most."""
    return rows * rank // world_size


def shard_files(embeddings: Embeddings) -> list[Path]:
    """The shards in snapshot order. Each file's bytes are checked when this process first opens it.

    Raises Mismatch when a shard is missing, Damaged when it is not the file that the receipt names.
    """
    files = sorted(embeddings.path.glob("shard-*-of-*.parquet"))
    if len(files) != embeddings.shards:
        raise Mismatch(f"{embeddings.path}: {len(files)} shards, the receipt says {embeddings.shards}; embed again")
    for file, digest in zip(files, embeddings.digests, strict=False):
        try:
            check_digest(file, digest)
        except Damaged as error:
            raise Damaged(f"{error}. Run a night: it sets the embeddings aside and embeds again.") from error
    return files


def vectors_at(files: Sequence[Path], rows: np.ndarray, dimension: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Vectors of `rows` int64 (n,), counted through all files, from the row groups that hold any of them.

    Yields (positions in `rows` int64 (m,), vectors (m, dimension) as they are stored), a row group at a time.
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
    """A column of fixed-size lists as (rows, dimension), in the numbers it is stored in.

    Raises Mismatch when lists are of another size or missing.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0)
    if column.type.list_size != dimension or pc.any(pc.is_null(column)).as_py():
        raise Mismatch(f"embeddings: vectors of {column.type} where {dimension} numbers each were promised")
    numbers: np.ndarray = column.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(-1, dimension)
