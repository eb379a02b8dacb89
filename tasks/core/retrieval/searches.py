"""A search for many queries: in one piece, or in slices of the queries that processes of their own make. The same run.

Slices lie where the run will be until they are joined: nothing of them is left then, and none goes to a store.
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

SLICE_SCHEMA = pa.schema({"query": pa.int64(), "passage_id": pa.string(), "score": pa.float32()})
Hits = tuple[np.ndarray, pa.ChunkedArray, np.ndarray]


@dataclass(frozen=True)
class Search:
    """A search that may have to be made; `key` names its run.

    `answer(folder, start, end)` gives the hits of the queries [start, end): their rows int64 (n,), ascending, the best
    hit of a query first; passage ids, strings (n,); scores float (n,). They hang on nothing but the query that they
    are of. `folder` takes files that are needed meanwhile.
    """

    title: str
    home: Path
    key: Mapping[str, object]
    queries: pa.Table  # query_id, text
    depth: int
    at_once: int  # queries answered at once, which bounds memory
    parents: tuple[str, ...]
    answer: Callable[[Path, int, int], Hits]

    @property
    def folder(self) -> Path:
        """Where the run lies until it is finished."""
        return partial_folder(self.home, Run, artifact_digest(Run, self.key))


def find_run(search: Search) -> Run | None:
    """The run, when it has been made."""
    return find_by_key(search.home, Run, search.key)


def search_whole(search: Search) -> Run:
    """The run, made in one piece unless it is there."""

    def build(folder: Path) -> Mapping[str, Any]:
        log.info("%s: searching the top %d for %s queries", search.title, search.depth, f"{search.queries.num_rows:,}")
        return _written(search, folder, lambda start, end: search.answer(folder, start, end))

    return produce(search.home, Run, search.key, build)


def search_slice(search: Search, rank: int, world_size: int) -> int:
    """Search the queries [n·rank/world, n·(rank+1)/world) unless that is done; return how many they are.

    The slice is finished when its file has its name; one that crashed is begun again.
    """
    asked = _slice(search, rank, world_size)
    if find_run(search) is not None:
        return len(asked)
    search.folder.mkdir(parents=True, exist_ok=True)
    target = _file(search.folder, rank, world_size)
    with exclusive(search.folder / f".{rank:05d}.lock"):
        if not target.exists():
            log.info(
                "%s: slice %d of %d: searching the top %d for %d of %d queries",
                *(search.title, rank + 1, world_size, search.depth, len(asked), search.queries.num_rows),
            )
            scratch = target.with_name(f".{target.stem}")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            _search_into(scratch / target.name, search, asked)
            sync_files(scratch)
            (scratch / target.name).rename(target)
            sync_folder(search.folder)
            shutil.rmtree(scratch)
    return len(asked)


def join_slices(search: Search, world_size: int) -> Run:
    """The run of all slices: key, rows and bytes are those of one piece. Slices that are missing are searched first."""

    def build(folder: Path) -> Mapping[str, Any]:
        for rank in range(world_size):
            search_slice(search, rank, world_size)
        slices = {_file(folder, rank, world_size): _slice(search, rank, world_size) for rank in range(world_size)}
        fields = _written(search, folder, lambda start, end: _read(slices, start, end))
        facts = [pq.read_metadata(file).metadata for file in slices]
        for left in folder.iterdir():
            if left.is_dir():
                shutil.rmtree(left)
            elif left.name != RUN_FILE:
                left.unlink()
        seconds, peak = sum(float(one[b"seconds"]) for one in facts), max(int(one[b"peak_mb"]) for one in facts)
        return {**fields, "seconds": seconds, "peak_mb": peak}

    return produce(search.home, Run, search.key, build, resumable=True)


def _slice(search: Search, rank: int, world_size: int) -> range:
    count = search.queries.num_rows
    return range(count * rank // world_size, count * (rank + 1) // world_size)


def _file(folder: Path, rank: int, world_size: int) -> Path:
    return folder / f"slice-{rank:05d}-of-{world_size:05d}.parquet"


def _written(search: Search, folder: Path, hits: Callable[[int, int], Hits]) -> dict[str, Any]:
    """Write the run, a block of queries at a time; what its receipt says."""
    rows, count = 0, search.queries.num_rows
    with run_writer(folder) as writer:
        for start in range(0, count, search.at_once):
            rows += append_run(writer, search.queries, *hits(start, min(start + search.at_once, count)))
    return {"rows": rows, "queries": count, "depth": search.depth, "parents": search.parents}


def _search_into(file: Path, search: Search, asked: range) -> None:
    """Write the hits of some queries, and what they cost beside them."""
    began = time.perf_counter()
    with pq.ParquetWriter(file, SLICE_SCHEMA, compression="zstd") as writer:
        with Peak() as peak:
            for start in asked[:: search.at_once]:
                query, ids, score = search.answer(file.parent, start, min(start + search.at_once, asked.stop))
                columns = [query, ids, score.astype(np.float32)]
                writer.write_table(pa.table(columns, names=SLICE_SCHEMA.names).cast(SLICE_SCHEMA))
        writer.add_key_value_metadata({"seconds": f"{time.perf_counter() - began:.3f}", "peak_mb": str(peak.mb)})


def _read(slices: Mapping[Path, range], start: int, end: int) -> Hits:
    """The hits of the queries [start, end), from the slices and row groups that hold some of them."""
    some = [("query", ">=", start), ("query", "<", end)]
    files = [file for file, asked in slices.items() if asked.start < end and asked.stop > start]
    found = pa.concat_tables([pq.read_table(file, filters=some) for file in files]).combine_chunks()
    return found["query"].to_numpy(), found["passage_id"], found["score"].to_numpy()
