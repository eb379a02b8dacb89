"""A run's one form on disk: ranked passages for queries, in the order of the queries."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import digest_of

HITS_AT_ONCE = 2_000_000  # hits in memory before they are written: about 80 MB in Java, 100 MB here
RUN_FILE = "run.parquet"
RUN_SCHEMA = pa.schema({"query_id": pa.string(), "passage_id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def queries_digest(queries: pa.Table) -> str:
    """Name a table of queries (query_id, text) by its ids and texts, in their order."""
    return digest_of([queries["query_id"].to_pylist(), queries["text"].to_pylist()])


@dataclass(frozen=True)
class LazyVectors:
    """Query vectors float32 (queries, dimension) that are made when they are needed, and not before.

    `name` says which vectors they are: the fingerprint of the encoder.
    """

    name: str
    make: Callable[[], np.ndarray]


QueryVectors = np.ndarray | LazyVectors


def vectors_of(vectors: QueryVectors) -> np.ndarray:
    """The vectors themselves, made now if need be."""
    return vectors.make() if isinstance(vectors, LazyVectors) else vectors


def vectors_digest(vectors: QueryVectors) -> str:
    """Name query vectors, by their bytes where they are there.

    Passages may keep their vectors while those of the queries change with their encoder.
    """
    if isinstance(vectors, LazyVectors):
        return vectors.name
    return hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()[:20]


def run_writer(folder: Path) -> pq.ParquetWriter:
    """Open `folder`'s run file for `append_run`; to be used in a `with`."""
    return pq.ParquetWriter(folder / RUN_FILE, RUN_SCHEMA, compression="zstd")


def append_run(
    writer: pq.ParquetWriter, queries: pa.Table, hits: np.ndarray, passage_ids: pa.Array, scores: np.ndarray
) -> int:
    """Write the hits of the next queries and return how many they are.

    hits: int64 (n,), rows of `queries`, ascending, best hit of a query first; passage_ids: strings (n,);
    scores: float (n,). Ranks from 1 follow from the order.
    """
    first = np.searchsorted(hits, hits, side="left")
    rank = np.arange(len(hits)) - first + 1
    columns = [queries["query_id"].take(pa.array(hits)), passage_ids, rank.astype(np.int32), scores.astype(np.float32)]
    writer.write_table(pa.table(columns, names=RUN_SCHEMA.names).cast(RUN_SCHEMA))
    return len(hits)
