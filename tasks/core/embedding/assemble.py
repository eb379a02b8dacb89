"""Assemble a shard's Parquet file from encoded windows, vectors of earlier nights, and vectors of repeated texts.

Vectors are collected in one scratch file, in any order. Each source is read once, one row group in memory at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.embedding.plan import REPEAT, Plan
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.stored_shards import first_row_of, read_vectors, shard_files
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.content_digest import ContentDigest

GROUP_ROWS = 4096  # rows in a Parquet row group


def required_shards(work: ShardWork, plan: Plan) -> list[int]:
    """Return the ranks of earlier shards that hold the vectors of texts that this shard repeats."""
    rows = plan.row[plan.source == REPEAT]
    rows = rows[rows < work.start]
    edges = [first_row_of(work.snapshot.rows, rank + 1, work.world_size) for rank in range(work.rank)]
    ranks: list[int] = np.unique(np.searchsorted(np.array(edges, np.int64), rows, side="right")).tolist()
    return ranks


def assemble(work: ShardWork, plan: Plan, parts: list[Path], facts: Mapping[str, object]) -> str:
    """Write the shard's Parquet file: passage_id, text_hash, vector, in snapshot order.

    parts: files with the vectors of `plan.encode`, in that order. facts: written into the file's metadata, with the
        key of the embeddings.

    Returns the digest of the content. Row groups have 4,096 rows.
    """
    collected = _CollectedVectors(work.scratch / "vectors", work.end - work.start, work.encoder.dimension, work.vectors)
    _collect(work, plan, parts, collected)
    list_type = pa.list_(pa.from_numpy_dtype(np.dtype(work.vectors)), work.encoder.dimension)
    schema = pa.schema({"passage_id": pa.string(), "text_hash": pa.string(), "vector": list_type})
    content = ContentDigest()
    temporary = work.file.with_name(f".{work.file.name}")
    # Vectors do not compress, and trying takes longer than writing them.
    compression = {"passage_id": "zstd", "text_hash": "zstd", "vector.list.element": "none"}
    with pq.ParquetWriter(temporary, schema, compression=compression, use_dictionary=False) as writer:
        for table in _row_groups(work, collected, schema):
            for name in ("passage_id", "text_hash"):
                content.add(name, table[name].combine_chunks())
            content.add("vector", table["vector"].combine_chunks().flatten())
            writer.write_table(table)
        digest = content.hexdigest()
        metadata = {**work.key, "rank": work.rank, "rows": work.end - work.start, **facts, "content": digest}
        writer.add_key_value_metadata({name: str(value) for name, value in metadata.items()})
    temporary.rename(work.file)
    return digest


class _CollectedVectors:
    """A scratch file with one vector for each row of the shard. It is memory-mapped only during a read or write."""

    def __init__(self, path: Path, rows: int, dimension: int, kind: str) -> None:
        self._path, self._shape, self._kind = path, (rows, dimension), np.dtype(kind)
        with path.open("wb") as file:
            file.truncate(rows * dimension * self._kind.itemsize)

    def put(self, rows: np.ndarray, vectors: np.ndarray) -> None:
        if len(rows):
            np.memmap(self._path, self._kind, "r+", shape=self._shape)[rows] = vectors

    def take(self, rows: np.ndarray) -> np.ndarray:
        vectors: np.ndarray = np.asarray(np.memmap(self._path, self._kind, "r", shape=self._shape))[rows]
        return vectors

    def between(self, start: int, end: int) -> np.ndarray:
        width = self._shape[1]
        offset = start * width * self._kind.itemsize
        return np.fromfile(self._path, self._kind, (end - start) * width, offset=offset)


def _collect(work: ShardWork, plan: Plan, parts: list[Path], collected: _CollectedVectors) -> None:
    dimension, written = work.encoder.dimension, 0
    encoded = plan.encode - work.start
    for part in parts:
        vectors = np.fromfile(part, work.vectors).reshape(-1, dimension)
        collected.put(encoded[written : written + len(vectors)], vectors)
        written += len(vectors)
    if written != len(encoded):
        raise Mismatch(
            f"{work.scratch}: {written} vectors for {len(encoded)} passages; remove this folder and run again"
        )
    for number, source in enumerate(plan.earlier):
        rows = np.flatnonzero(plan.source == number)
        if len(rows):
            for positions, vectors in read_vectors(shard_files(source), plan.row[rows], dimension):
                collected.put(rows[positions], vectors)
    _collect_repeats(work, plan, collected)


def _collect_repeats(work: ShardWork, plan: Plan, collected: _CollectedVectors) -> None:
    rows = np.flatnonzero(plan.source == REPEAT)
    for rank in required_shards(work, plan):
        other = work.other(rank)
        in_other = rows[(plan.row[rows] >= other.start) & (plan.row[rows] < other.end)]
        for positions, vectors in read_vectors([other.file], plan.row[in_other] - other.start, work.encoder.dimension):
            collected.put(in_other[positions], vectors)
    in_shard = rows[plan.row[rows] >= work.start]
    for low in range(0, len(in_shard), GROUP_ROWS):
        batch = in_shard[low : low + GROUP_ROWS]
        collected.put(batch, collected.take(plan.row[batch] - work.start))


def _row_groups(work: ShardWork, collected: _CollectedVectors, schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(work.start, work.end, GROUP_ROWS):
        end = min(start + GROUP_ROWS, work.end)
        names = passages_between(work.snapshot, start, end, ["passage_id", "text_hash"], GROUP_ROWS)
        table = pa.Table.from_batches(list(names)).combine_chunks()
        numbers = pa.array(collected.between(start - work.start, end - work.start))
        vectors = pa.FixedSizeListArray.from_arrays(numbers, work.encoder.dimension)
        yield pa.table([table["passage_id"], table["text_hash"], vectors], schema=schema)
