"""Passages of random words for benchmarks, and an encoder that draws random vectors, as artifacts of any size."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))

from small_snapshot import snapshot_of

from tasks.core.base.files import produce, receipts_newest_first, write_json
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.text.normalization import full_text

WORDS = ["lamp", "river", "stone", "cloud", "paper", "engine", "orchard", "violin", "harbour", "copper", "meadow"]
BATCH = 5000  # passages per batch


class DrawnEncoder:
    """Encode a text as a random unit vector, seeded by the hash of the text."""

    def __init__(self, folder: Path) -> None:
        fields = json.loads((folder / "drawn.json").read_text())
        self.fingerprint, self.dimension = str(fields["fingerprint"]), int(fields["dimension"])

    def encode_passages(self, texts: Sequence[str], /) -> np.ndarray:
        """Encode passages, float32 (n, dimension)."""
        drawn = [np.random.default_rng(zlib.crc32(text.encode())).standard_normal(self.dimension) for text in texts]
        vectors = np.stack(drawn).astype(np.float32)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))

    encode_queries = encode_passages


def artifacts(home: Path, rows: int, dimension: int) -> tuple[Encoder, Embeddings, Snapshot]:
    """Return an encoder, vectors, and a snapshot of `rows` passages; create them on the first call in `home`."""
    key = {"rows": rows, "dimension": dimension}

    def encoder_files(folder: Path) -> dict[str, object]:
        write_json(folder / "drawn.json", {"fingerprint": "drawn", "dimension": dimension})
        fields = {"dimension": dimension, "base": "", "steps": 0, "precision": "fp32", "fidelity": 1.0}
        return {"rows": 0, "fingerprint": "drawn", "passage_fingerprint": "drawn", **fields}

    encoder = produce(home, Encoder, key, encoder_files)
    snapshot = next(iter(receipts_newest_first(home, Snapshot)), None) or snapshot_of(home, passages(rows))

    def vector_files(folder: Path) -> dict[str, object]:
        write_tables(folder / "shard-00000-of-00001.parquet", vectors(snapshot, DrawnEncoder(encoder.path)))
        fields = {"dimension": dimension, "shards": 1, "embedded": rows, "avoided": 0, "tokens": 0}
        return {"rows": rows, "fingerprint": "drawn", "snapshot": snapshot.digest, **fields}

    embeddings = produce(home, Embeddings, key, vector_files)
    return encoder, embeddings, snapshot


def words(seed: int, count: int) -> list[str]:
    """Draw `count` random words and a word with the seed; equal seeds give equal words."""
    return [*np.random.default_rng(seed).choice(WORDS, count), f"n{seed}"]


def passages(rows: int) -> dict[str, dict[str, str]]:
    """Draw passages of 60 words: id -> title and text."""
    return {f"p{n:07d}": {"title": f"entry {n}", "text": " ".join(words(n, 60))} for n in range(rows)}


def vectors(snapshot: Snapshot, encoder: DrawnEncoder) -> Iterable[pa.Table]:
    """Encode all passages: tables of passage_id, text_hash, and vector."""
    with pq.ParquetFile(snapshot.path / "passages.parquet") as file:
        for batch in file.iter_batches(BATCH):
            table = pa.Table.from_batches([batch])
            encoded = encoder.encode_passages([full_text(row["title"], row["text"]) for row in batch.to_pylist()])
            column = pa.FixedSizeListArray.from_arrays(pa.array(encoded.ravel()), encoder.dimension)
            yield table.select(["passage_id", "text_hash"]).append_column("vector", column)


def write_tables(path: Path, tables: Iterable[pa.Table]) -> None:
    """Write tables to one Parquet file."""
    writer = None
    for table in tables:
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    assert writer is not None
    writer.close()
