"""Small worlds for mining, written by hand: snapshots, embeddings and runs as their real files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import count
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.data.text import text_hash
from tasks.core.mining.runs import append_run, run_writer
from tasks.core.receipts import Embeddings, Run, Snapshot

_NUMBER = count()


def write_snapshot(
    folder: Path,
    passages: Mapping[str, str],
    queries: Mapping[str, str],
    qrels: Sequence[tuple[str, str, str]] = (),
) -> Snapshot:
    """passages and queries: id → text; qrels: (query id, passage id, split)."""
    folder.mkdir(parents=True)
    ids, texts = list(passages), list(passages.values())
    hashes = [text_hash("", text) for text in texts]
    strings = ["passage_id", "title", "text", "text_hash"]
    pq.write_table(pa.table([ids, [""] * len(ids), texts, hashes], names=strings), folder / "passages.parquet")
    pq.write_table(
        pa.table([list(queries), list(queries.values())], names=["query_id", "text"]), folder / "queries.parquet"
    )
    columns = [[q for q, _, _ in qrels], [p for _, p, _ in qrels], [1] * len(qrels), [s for _, _, s in qrels]]
    types = [("query_id", pa.string()), ("passage_id", pa.string()), ("relevance", pa.int32()), ("split", pa.string())]
    pq.write_table(pa.table(columns, schema=pa.schema(types)), folder / "qrels.parquet")
    return Snapshot(
        digest=f"snapshot-{next(_NUMBER)}",
        path=folder,
        rows=len(ids),
        queries=len(queries),
        qrels=len(qrels),
        splits={},
    )


def write_embeddings(
    folder: Path, ids: Sequence[str], vectors: np.ndarray, snapshot: str = "s", shards: int = 2, group: int = 3
) -> Embeddings:
    """Shards of `vectors` float32 (passages, dimension), in row groups of `group` rows."""
    folder.mkdir(parents=True)
    rows, dimension = vectors.shape
    for rank in range(shards):
        low, high = rows * rank // shards, rows * (rank + 1) // shards
        flat = pa.array(vectors[low:high].ravel(), pa.float32())
        columns = [pa.array(ids[low:high], pa.string()), pa.FixedSizeListArray.from_arrays(flat, dimension)]
        table = pa.table(columns, names=["passage_id", "vector"])
        pq.write_table(table, folder / f"shard-{rank:05d}-of-{shards:05d}.parquet", row_group_size=group)
    return Embeddings(
        digest=f"embeddings-{next(_NUMBER)}", path=folder, rows=rows, fingerprint="f", snapshot=snapshot,
        dimension=dimension, shards=shards, embedded=rows, avoided=0, tokens=0,
    )  # fmt: skip


def write_run(folder: Path, ranked: Mapping[str, Sequence[str]]) -> Run:
    """A run: query id → passage ids, best first; the scores count down."""
    folder.mkdir(parents=True)
    queries = pa.table({"query_id": pa.array(list(ranked), pa.string())})
    sizes = [len(found) for found in ranked.values()]
    ids = pa.array([one for found in ranked.values() for one in found], pa.string())
    scores = np.array([100.0 - place for size in sizes for place in range(size)])
    with run_writer(folder) as writer:
        rows = append_run(writer, queries, np.repeat(np.arange(len(sizes)), sizes), ids, scores)
    return Run(digest=f"run-{next(_NUMBER)}", path=folder, rows=rows, queries=len(ranked), depth=max(sizes, default=0))


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., Snapshot]:
    return write_snapshot


@pytest.fixture(scope="session")
def make_embeddings() -> Callable[..., Embeddings]:
    return write_embeddings


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return write_run
