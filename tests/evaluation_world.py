"""A small world to evaluate in: a snapshot written by hand, a tiny encoder, and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import digest_of, produce
from tasks.core.base.receipts import Embeddings, Encoder, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.retrieval.runs import RUN_SCHEMA
from tasks.core.text.normalization import text_hash
from tasks.core.training.trainer import base_encoder

Texts = Mapping[str, str]
Judged = Sequence[tuple[str, str, str]]


def write_snapshot(home: Path, passages: Texts, queries: Texts, qrels: Judged) -> Snapshot:
    """passages and queries: id → text; qrels: (query id, passage id, split)."""

    def build(folder: Path) -> dict[str, object]:
        ids = sorted(passages)
        texts = [passages[one] for one in ids]
        hashes = [text_hash("", text) for text in texts]
        columns = {"passage_id": ids, "title": [""] * len(ids), "text": texts, "text_hash": hashes}
        pq.write_table(pa.table(columns), folder / "passages.parquet")
        asked = sorted(queries)
        pq.write_table(
            pa.table({"query_id": asked, "text": [queries[one] for one in asked]}), folder / "queries.parquet"
        )
        names = ["query_id", "passage_id", "split"]
        rows = {name: [row[place] for row in qrels] for place, name in enumerate(names)}
        judged = pa.table({**rows, "relevance": pa.array([1] * len(qrels), pa.int32())})
        pq.write_table(judged.select(["query_id", "passage_id", "relevance", "split"]), folder / "qrels.parquet")
        splits = {split: len({q for q, _, s in qrels if s == split}) for split in {s for _, _, s in qrels}}
        return {"rows": len(ids), "queries": len(asked), "qrels": len(qrels), "splits": splits}

    return produce(home, Snapshot, {"by hand": digest_of([passages, queries, list(qrels)])}, build)


def write_run(home: Path, ranked: Mapping[str, Sequence[str]], depth: int = 100) -> Run:
    """query id → passage ids, best first; a score one below the last for each rank."""

    def build(folder: Path) -> dict[str, object]:
        rows = [
            (query, one, rank, 1.0 / rank) for query, found in ranked.items() for rank, one in enumerate(found, start=1)
        ]
        arrays = [
            pa.array([row[place] for row in rows], RUN_SCHEMA.field(place).type) for place in range(len(RUN_SCHEMA))
        ]
        pq.write_table(pa.table(arrays, schema=RUN_SCHEMA), folder / "run.parquet")
        return {"rows": len(rows), "queries": len(ranked), "depth": depth}

    return produce(home, Run, {"by hand": digest_of(ranked)}, build)


@dataclass(frozen=True)
class World:
    """A home with a snapshot, an encoder of random weights, and its vectors."""

    settings: Settings
    snapshot: Snapshot
    encoder: Encoder
    embeddings: Embeddings

    @property
    def home(self) -> Path:
        """Where the artifacts lie."""
        return self.settings.home


def small_world(home: Path, model: Path, passages: Texts, queries: Texts, qrels: Judged) -> World:
    """Write the snapshot and embed it."""
    settings = Settings.model_validate(
        {"home": home, "encoder": {"model": str(model)}, "embedding": {"precision": "fp32"}}
    )
    snapshot = write_snapshot(home, passages, queries, qrels)
    encoder = base_encoder(home, snapshot, settings)
    return World(settings, snapshot, encoder, gather_shards(home, encoder, snapshot, 2))
