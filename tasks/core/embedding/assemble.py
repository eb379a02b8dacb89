"""A shard's Parquet file out of its encoded windows, the vectors of earlier nights, and those of equal texts.

Vectors are gathered in one scratch file, a stretch of rows at a time, whatever order their sources have them in: each
source is read once, and memory holds a row group of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.errors import Mismatch
from tasks.core.embedding.plan import REPEAT, Plan
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.stored_shards import rows_before, shard_files, vectors_at
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.content_digest import ContentDigest

GROUP_ROWS = 4096  # rows of a row group


def others_needed(work: ShardWork, plan: Plan) -> list[int]:
    """The earlier shards that hold vectors of texts which this one repeats."""
    rows = plan.row[plan.source == REPEAT]
    rows = rows[rows < work.start]
    edges = [rows_before(work.snapshot.rows, rank + 1, work.world_size) for rank in range(work.rank)]
    needed: list[int] = np.unique(np.searchsorted(np.array(edges, np.int64), rows, side="right")).tolist()
    return needed


def assemble(work: ShardWork, plan: Plan, parts: list[Path], counts: dict[str, int]) -> str:
    """Write the shard: passage_id, text_hash, vector, in snapshot order; the digest of its content.

    `parts` hold the vectors of `plan.encode`, in its order. Row groups have 4,096 rows; what names the vectors, and
    the counts, are in the file's metadata.
    """
    gathered = _Gathered(work.scratch / "vectors", work.end - work.start, work.encoder.dimension, work.vectors)
    _gather(work, plan, parts, gathered)
    list_type = pa.list_(pa.from_numpy_dtype(np.dtype(work.vectors)), work.encoder.dimension)
    schema = pa.schema({"passage_id": pa.string(), "text_hash": pa.string(), "vector": list_type})
    content = ContentDigest()
    aside = work.file.with_name(f".{work.file.name}")
    # Vectors do not compress: trying takes longer than to write them.
    packed = {"passage_id": "zstd", "text_hash": "zstd", "vector.list.element": "none"}
    with pq.ParquetWriter(aside, schema, compression=packed, use_dictionary=False) as writer:
        for table in _row_groups(work, gathered, schema):
            for name in ("passage_id", "text_hash"):
                content.add(name, table[name].combine_chunks())
            content.add("vector", table["vector"].combine_chunks().flatten())
            writer.write_table(table)
        digest = content.hexdigest()
        facts = {**work.key, "rank": work.rank, "rows": work.end - work.start, **counts, "content": digest}
        writer.add_key_value_metadata({name: str(value) for name, value in facts.items()})
    aside.rename(work.file)
    return digest


class _Gathered:
    """A file of vectors by row of the shard; it is mapped only while rows are put or taken."""

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


def _gather(work: ShardWork, plan: Plan, parts: list[Path], gathered: _Gathered) -> None:
    dimension, done = work.encoder.dimension, 0
    encoded = plan.encode - work.start
    for part in parts:
        vectors = np.fromfile(part, work.vectors).reshape(-1, dimension)
        gathered.put(encoded[done : done + len(vectors)], vectors)
        done += len(vectors)
    if done != len(encoded):
        raise Mismatch(f"{work.scratch}: {done} vectors for {len(encoded)} passages; remove this folder and run again")
    for place, source in enumerate(plan.earlier):
        rows = np.flatnonzero(plan.source == place)
        if len(rows):
            for some, vectors in vectors_at(shard_files(source), plan.row[rows], dimension):
                gathered.put(rows[some], vectors)
    _gather_repeats(work, plan, gathered)


def _gather_repeats(work: ShardWork, plan: Plan, gathered: _Gathered) -> None:
    rows = np.flatnonzero(plan.source == REPEAT)
    for rank in others_needed(work, plan):
        other = work.other(rank)
        there = rows[(plan.row[rows] >= other.start) & (plan.row[rows] < other.end)]
        for some, vectors in vectors_at([other.file], plan.row[there] - other.start, work.encoder.dimension):
            gathered.put(there[some], vectors)
    own = rows[plan.row[rows] >= work.start]
    for low in range(0, len(own), GROUP_ROWS):
        some = own[low : low + GROUP_ROWS]
        gathered.put(some, gathered.take(plan.row[some] - work.start))


def _row_groups(work: ShardWork, gathered: _Gathered, schema: pa.Schema) -> Iterator[pa.Table]:
    for start in range(work.start, work.end, GROUP_ROWS):
        end = min(start + GROUP_ROWS, work.end)
        names = passages_between(work.snapshot, start, end, ["passage_id", "text_hash"], GROUP_ROWS)
        table = pa.Table.from_batches(list(names)).combine_chunks()
        numbers = pa.array(gathered.between(start - work.start, end - work.start))
        vectors = pa.FixedSizeListArray.from_arrays(numbers, work.encoder.dimension)
        yield pa.table([table["passage_id"], table["text_hash"], vectors], schema=schema)
