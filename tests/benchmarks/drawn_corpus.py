"""Random passages of any number for benchmarks, and an encoder that draws their vectors, as artifacts."""

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
BATCH = 5000  # passages per batch


class DrawnEncoder:
    """Encode a text as a random unit vector, seeded by the hash of the text."""

    def __init__(self, folder: Path) -> None:
        fields = json.loads((folder / "drawn.json").read_text())
        self.fingerprint, self.dimension = str(fields["fingerprint"]), int(fields["dimension"])

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode texts as float32 (n, dimension)."""
        drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dimension) for text in texts]
        vectors = np.stack(drawn).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    encode_queries = encode_passages


def artifacts(home: Path, rows: int, dimension: int) -> tuple[Encoder, Embeddings, Snapshot]:
    """Return encoder, vectors, and snapshot of `rows` passages; build them on first use."""
    key = {"rows": rows, "dimension": dimension}

    def encoder_files(folder: Path) -> dict[str, object]:
        write_json(folder / "drawn.json", {"fingerprint": "drawn", "dimension": dimension})
        fields = {"dimension": dimension, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
        return {"rows": 0, "fingerprint": "drawn", "passage_fingerprint": "drawn", **fields}

    def snapshot_files(folder: Path) -> dict[str, object]:
        write_tables(folder / "passages.parquet", passages(rows))
        queries = [{"query_id": f"q{n}", "text": " ".join(words(n, 6))} for n in range(1000)]
        pq.write_table(pa.Table.from_pylist(queries), folder / "queries.parquet")
        return {"rows": rows, "queries": len(queries), "qrels": 0, "splits": {}}

    encoder = produce(home, Encoder, key, encoder_files)
    snapshot = produce(home, Snapshot, key, snapshot_files)

    def vector_files(folder: Path) -> dict[str, object]:
        write_tables(folder / "shard-00000-of-00001.parquet", vectors(snapshot, DrawnEncoder(encoder.path)))
        fields = {"dimension": dimension, "shards": 1, "embedded": rows, "avoided": 0, "tokens": 0}
        return {"rows": rows, "fingerprint": "drawn", "snapshot": snapshot.digest, **fields}

    embeddings = produce(home, Embeddings, key, vector_files)
    return encoder, embeddings, snapshot


def words(seed: int, count: int) -> list[str]:
    """Draw `count` words; the same seed gives the same words."""
    return [*np.random.default_rng(seed).choice(WORDS, count), f"n{seed}"]


def passages(rows: int) -> Iterable[pa.Table]:
    """Yield passages of 60 words."""
    for first in range(0, rows, BATCH):
        texts = [" ".join(words(n, 60)) for n in range(first, min(first + BATCH, rows))]
        rows_of_batch = [
            {"passage_id": f"p{n}", "title": f"entry {n}", "text": text, "text_hash": text_hash(f"entry {n}", text)}
            for n, text in enumerate(texts, first)
        ]
        yield pa.Table.from_pylist(rows_of_batch)


def vectors(snapshot: Snapshot, encoder: DrawnEncoder) -> Iterable[pa.Table]:
    """Yield the vectors of all passages."""
    with pq.ParquetFile(snapshot.path / "passages.parquet") as file:
        for batch in file.iter_batches(BATCH):
            table = pa.Table.from_batches([batch])
            encoded = encoder.encode_passages([full_text(row["title"], row["text"]) for row in batch.to_pylist()])
            column = pa.FixedSizeListArray.from_arrays(pa.array(encoded.ravel()), encoder.dimension)
            yield table.select(["passage_id", "text_hash"]).append_column("vector", column)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables into a single Parquet file."""
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
