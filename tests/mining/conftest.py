"""Small snapshots, embeddings, and runs for mining tests, written as real files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.base.receipts import Embeddings, Negatives, Run, Snapshot
from tasks.core.base.settings import MiningSettings, Shares
from tasks.core.mining.mine import mine
from tasks.core.retrieval.runs import append_run, run_writer
from tasks.core.text.normalization import text_hash

_NUMBER = count()
SETTINGS = MiningSettings(
    per_query=3, margin=0.95, margin_over="min", near_duplicate=0.8, shares=Shares(bm25=0.5, dense=0.5)
)


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
    sizes = [len(passages) for passages in ranked.values()]
    ids = pa.array([passage for passages in ranked.values() for passage in passages], pa.string())
    scores = np.array([100.0 - rank for size in sizes for rank in range(size)])
    with run_writer(folder) as writer:
        rows = append_run(writer, queries, np.repeat(np.arange(len(sizes)), sizes), ids, scores)
    return Run(digest=f"run-{next(_NUMBER)}", path=folder, rows=rows, queries=len(ranked), depth=max(sizes, default=0))


@dataclass
class World:
    """Arguments for `mine`; `scores` is the inner product of each passage with every query."""

    home: Path

    def mine(self, passages, queries, qrels, runs, scores=None, vectors=None, round_number=1, **changes):
        folder = self.home / f"w{len(list(self.home.iterdir()))}"
        snapshot = write_snapshot(folder / "snapshot", passages, queries, qrels)
        score_of = scores or {}
        numbers = np.array([[score_of.get(passage, 0.0), 1.0] for passage in passages], np.float32)
        embeddings = write_embeddings(folder / "embeddings", list(passages), numbers, snapshot=snapshot.digest)
        train = {query for query, _, split in qrels if split == "train"}
        query_vectors = np.array([[1.0, 0.0]] * len(train), np.float32) if vectors is None else vectors
        tagged = [(passage, write_run(folder / passage, ranked)) for passage, ranked in runs.items()]
        settings = SETTINGS.model_copy(update=changes)
        receipt = mine(folder, snapshot, tagged, embeddings, query_vectors, round_number, settings)
        rows = pq.read_table(receipt.path / "negatives.parquet").to_pylist()
        assert receipt.rows == len(rows)
        return receipt, rows

    def table(self, receipt: Negatives) -> pa.Table:
        return pq.read_table(receipt.path / "negatives.parquet")


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def random_world() -> tuple[Any, ...]:
    random = np.random.default_rng(0)
    names = [f"p{number}" for number in range(60)]
    bodies = [" ".join(random.choice(list("abcdef"), 9)) for _ in names[:40]]
    bodies += bodies[:20]  # every third text occurs twice
    wordings = {f"q{number:02d}": f"question {number % 25}" for number in range(30)}
    qrels = sorted({(query, str(random.choice(names)), split) for query in wordings for split in ("train", "test")})
    runs = {
        source: {query: list(map(str, random.permutation(names)[:30])) for query in wordings}
        for source in ("bm25", "dense")
    }
    scores = {name: float(random.normal()) for name in names}
    return dict(zip(names, bodies, strict=True)), wordings, qrels, runs, scores


@pytest.fixture(scope="session")
def crowd() -> Callable[[], tuple[Any, ...]]:
    """The first arguments of `World.mine`: 30 queries and 60 passages, a third of them duplicates."""
    return random_world


@pytest.fixture(scope="session")
def make_snapshot() -> Callable[..., Snapshot]:
    return write_snapshot


@pytest.fixture(scope="session")
def make_embeddings() -> Callable[..., Embeddings]:
    return write_embeddings


@pytest.fixture(scope="session")
def make_run() -> Callable[..., Run]:
    return write_run
