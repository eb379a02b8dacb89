"""The file format of runs: ranked passages for queries, in query order."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import digest_of

HITS_AT_ONCE = 2_000_000  # hits in memory before writing: about 80 MB in Java, 100 MB in Python
RUN_FILE = "run.parquet"
RUN_SCHEMA = pa.schema({"query_id": pa.string(), "passage_id": pa.string(), "rank": pa.int32(), "score": pa.float32()})


def queries_digest(queries: pa.Table) -> str:
    """Return the digest of a table of queries (query_id, text): its ids and texts, in order."""
    return digest_of([queries["query_id"].to_pylist(), queries["text"].to_pylist()])


@dataclass(frozen=True)
class LazyVectors:
    """Query vectors float32 (queries, dimension) that are computed only when needed.

    name: identifies the vectors: the fingerprint of the encoder. make: computes them.
    """

    name: str
    make: Callable[[], np.ndarray]


QueryVectors = np.ndarray | LazyVectors


def vectors_of(vectors: QueryVectors) -> np.ndarray:
    """Return the vectors, computing them if necessary."""
    return vectors.make() if isinstance(vectors, LazyVectors) else vectors


def vectors_digest(vectors: QueryVectors) -> str:
    """Return the name of lazy vectors, or the digest of computed ones.

    A run needs it in its key, because query vectors may change with their encoder while passage vectors stay.
    """
    if isinstance(vectors, LazyVectors):
        return vectors.name
    return hashlib.sha256(np.ascontiguousarray(vectors).data).hexdigest()[:20]


def run_writer(folder: Path) -> pq.ParquetWriter:
    """Open the run file in `folder` for `append_run`. Use it in a `with` statement."""
    return pq.ParquetWriter(folder / RUN_FILE, RUN_SCHEMA, compression="zstd")


def append_run(
    writer: pq.ParquetWriter, queries: pa.Table, hits: np.ndarray, passage_ids: pa.Array, scores: np.ndarray
) -> int:
    """Write the hits of the next queries and return the number of hits.

    hits: int64 (n,), rows of `queries`, ascending, best hit of a query first; passage_ids: strings (n,);
    scores: float (n,). Ranks start at 1 and follow the order.
    """
    first = np.searchsorted(hits, hits, side="left")
    rank = np.arange(len(hits)) - first + 1
    columns = [queries["query_id"].take(pa.array(hits)), passage_ids, rank.astype(np.int32), scores.astype(np.float32)]
    writer.write_table(pa.table(columns, names=RUN_SCHEMA.names).cast(RUN_SCHEMA))
    return len(hits)
