"""Search for many queries, in this process or in several processes that each search a shard of the queries.

Both give the same run. Shards of queries are stored in the unfinished folder of the run until they are joined, and
deleted then. They are never copied to an artifact store.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import (
    artifact_digest,
    exclusive,
    find_by_key,
    partial_folder,
    produce,
    sync_files,
    sync_folder,
)
from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Run
from tasks.core.retrieval.runs import RUN_FILE, append_run, run_writer

log = logging.getLogger("nightshift.mining")

SHARD_SCHEMA = pa.schema({"query": pa.int64(), "passage_id": pa.string(), "score": pa.float32()})
Hits = tuple[np.ndarray, pa.ChunkedArray, np.ndarray]


@dataclass(frozen=True)
class Search:
    """A search to run, unless its run exists already; `key` identifies the run.

    `answer(folder, start, end)` returns the hits of the queries [start, end): query rows int64 (n,), ascending, the
    best hit of a query first; passage ids, strings (n,); scores float (n,). The hits of a query depend only on that
    query. `folder` is for temporary files.
    """

    title: str
    home: Path
    key: Mapping[str, object]
    queries: pa.Table  # query_id, text
    depth: int
    at_once: int  # queries in a batch; bounds memory
    parents: tuple[str, ...]
    answer: Callable[[Path, int, int], Hits]

    @property
    def folder(self) -> Path:
        """The folder of the run while it is unfinished."""
        return partial_folder(self.home, Run, artifact_digest(Run, self.key))


def find_run(search: Search) -> Run | None:
    """Return the run if it exists, else None."""
    return find_by_key(search.home, Run, search.key)


def search_whole(search: Search) -> Run:
    """Return the run. If it does not exist, search all queries in this process."""

    def build(folder: Path) -> Mapping[str, Any]:
        log.info("%s: searching the top %d for %s queries", search.title, search.depth, f"{search.queries.num_rows:,}")
        return _write_run(search, folder, lambda start, end: search.answer(folder, start, end))

    return produce(search.home, Run, search.key, build)


def search_shard(search: Search, rank: int, world_size: int) -> int:
    """Search the queries [n·rank/world, n·(rank+1)/world) if not done yet. Return the number of these queries.

    The file of a shard gets its final name when it is complete. A crashed shard starts again.
    """
    rows = _query_rows(search, rank, world_size)
    if find_run(search) is not None:
        return len(rows)
    search.folder.mkdir(parents=True, exist_ok=True)
    target = _shard_file(search.folder, rank, world_size)
    with exclusive(search.folder / f".{rank:05d}.lock"):
        if not target.exists():
            log.info(
                "%s: shard %d of %d: searching the top %d for %d of %d queries",
                *(search.title, rank + 1, world_size, search.depth, len(rows), search.queries.num_rows),
            )
            scratch = target.with_name(f".{target.stem}")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            _search_into(scratch / target.name, search, rows)
            sync_files(scratch)
            (scratch / target.name).rename(target)
            sync_folder(search.folder)
            shutil.rmtree(scratch)
    return len(rows)


def join_shards(search: Search, world_size: int) -> Run:
    """Join all shards into the run, after searching missing shards.

    Key, rows, and bytes of the run are the same as from `search_whole`.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        for rank in range(world_size):
            search_shard(search, rank, world_size)
        shards = {
            _shard_file(folder, rank, world_size): _query_rows(search, rank, world_size) for rank in range(world_size)
        }
        fields = _write_run(search, folder, lambda start, end: _read_hits(shards, start, end))
        costs = [pq.read_metadata(file).metadata for file in shards]
        for path in folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != RUN_FILE:
                path.unlink()
        seconds = sum(float(cost[b"seconds"]) for cost in costs)
        return {**fields, "seconds": seconds, "peak_mb": max(int(cost[b"peak_mb"]) for cost in costs)}

    return produce(search.home, Run, search.key, build, resumable=True)


def _query_rows(search: Search, rank: int, world_size: int) -> range:
    count = search.queries.num_rows
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def _shard_file(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"slice-{rank:05d}-of-{world_size:05d}.parquet"


def _write_run(search: Search, folder: Path, hits: Callable[[int, int], Hits]) -> dict[str, Any]:
    """Write the run, one batch of queries at a time, and return the fields of its receipt."""
    rows, count = 0, search.queries.num_rows
    with run_writer(folder) as writer:
        for start in range(0, count, search.at_once):
            rows += append_run(writer, search.queries, *hits(start, min(start + search.at_once, count)))
    return {"rows": rows, "queries": count, "depth": search.depth, "parents": search.parents}


def _search_into(file: Path, search: Search, rows: range) -> None:
    """Write the hits of the queries `rows`, with time and peak memory in the file's metadata."""
    started = time.perf_counter()
    with pq.ParquetWriter(file, SHARD_SCHEMA, compression="zstd") as writer:
        with Peak() as peak:
            for start in rows[:: search.at_once]:
                query, ids, score = search.answer(file.parent, start, min(start + search.at_once, rows.stop))
                columns = [query, ids, score.astype(np.float32)]
                writer.write_table(pa.table(columns, names=SHARD_SCHEMA.names).cast(SHARD_SCHEMA))
        writer.add_key_value_metadata({"seconds": f"{time.perf_counter() - started:.3f}", "peak_mb": str(peak.mb)})


def _read_hits(shards: Mapping[Path, range], start: int, end: int) -> Hits:
    """Read the hits of the queries [start, end) from the shards and row groups that contain them."""
    in_range = [("query", ">=", start), ("query", "<", end)]
    files = [file for file, rows in shards.items() if rows.start < end and rows.stop > start]
    hits = pa.concat_tables([pq.read_table(file, filters=in_range) for file in files]).combine_chunks()
    return hits["query"].to_numpy(), hits["passage_id"], hits["score"].to_numpy()
