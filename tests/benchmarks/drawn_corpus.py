"""Passages of random words for benchmarks, and an encoder that draws their vectors: as artifacts of any size."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.files import produce, write_json
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.text.normalization import full_text, text_hash

WORDS = ["lamp", "river", "stone", "cloud", "paper", "engine", "orchard", "violin", "harbour", "copper", "meadow"]
SLICE = 5000  # passages made at once


class DrawnEncoder:
    """A unit vector drawn by the hash of the text."""

    def __init__(self, folder: Path) -> None:
        fields = json.loads((folder / "drawn.json").read_text())
        self.fingerprint, self.dimension = str(fields["fingerprint"]), int(fields["dimension"])

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Float32 (n, dimension)."""
        drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dimension) for text in texts]
        vectors = np.stack(drawn).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    encode_queries = encode_passages


def artifacts(home: Path, rows: int, dimension: int) -> tuple[Encoder, Embeddings, Snapshot]:
    """Encoder, vectors and snapshot of so many passages, made on first use."""
    named = {"rows": rows, "dimension": dimension}

    def encoder_files(folder: Path) -> dict[str, object]:
        write_json(folder / "drawn.json", {"fingerprint": "drawn", "dimension": dimension})
        fields = {"dimension": dimension, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
        return {"rows": 0, "fingerprint": "drawn", "passage_fingerprint": "drawn", **fields}

    def snapshot_files(folder: Path) -> dict[str, object]:
        write_parts(folder / "passages.parquet", passages(rows))
        asked = [{"query_id": f"q{n}", "text": " ".join(words(n, 6))} for n in range(1000)]
        pq.write_table(pa.Table.from_pylist(asked), folder / "queries.parquet")
        return {"rows": rows, "queries": len(asked), "qrels": 0, "splits": {}}

    encoder = produce(home, Encoder, named, encoder_files)
    snapshot = produce(home, Snapshot, named, snapshot_files)

    def vector_files(folder: Path) -> dict[str, object]:
        write_parts(folder / "shard-00000-of-00001.parquet", vectors(snapshot, DrawnEncoder(encoder.path)))
        fields = {"dimension": dimension, "shards": 1, "embedded": rows, "avoided": 0, "tokens": 0}
        return {"rows": rows, "fingerprint": "drawn", "snapshot": snapshot.digest, **fields}

    embeddings = produce(home, Embeddings, named, vector_files)
    return encoder, embeddings, snapshot


def words(seed: int, count: int) -> list[str]:
    """So many words, the same ones for the same seed."""
    return [*np.random.default_rng(seed).choice(WORDS, count), f"n{seed}"]


def passages(rows: int) -> Iterable[pa.Table]:
    """Passages of 60 words."""
    for first in range(0, rows, SLICE):
        texts = [" ".join(words(n, 60)) for n in range(first, min(first + SLICE, rows))]
        made = [
            {"passage_id": f"p{n}", "title": f"entry {n}", "text": text, "text_hash": text_hash(f"entry {n}", text)}
            for n, text in enumerate(texts, first)
        ]
        yield pa.Table.from_pylist(made)


def vectors(snapshot: Snapshot, encoder: DrawnEncoder) -> Iterable[pa.Table]:
    """The vectors of all passages."""
    with pq.ParquetFile(snapshot.path / "passages.parquet") as file:
        for batch in file.iter_batches(SLICE):
            table = pa.Table.from_batches([batch])
            made = encoder.encode_passages([full_text(one["title"], one["text"]) for one in batch.to_pylist()])
            column = pa.FixedSizeListArray.from_arrays(pa.array(made.ravel()), encoder.dimension)
            yield table.select(["passage_id", "text_hash"]).append_column("vector", column)


def write_parts(path: Path, tables: Iterable[pa.Table]) -> None:
    """One Parquet file of many tables."""
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
