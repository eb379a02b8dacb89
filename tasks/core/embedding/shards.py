"""Passages into vectors: one Parquet file a shard, each passage once, resumable at the grain of a shard."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.data.snapshot import passages
from tasks.core.data.text import full_text
from tasks.core.embedding.known import known_vectors
from tasks.core.errors import Mismatch
from tasks.core.files import digest_of, exclusive, file_digest, finished, produce, write_json
from tasks.core.memory import Peak
from tasks.core.receipts import Embeddings, Encoder, Snapshot
from tasks.core.training.encoder import DualEncoder, load_encoder

log = logging.getLogger("nightshift.embedding")

WINDOW = 4096  # passages sorted by length and encoded together; bounds memory


def shard_name(rank: int, world_size: int) -> str:
    """The file of shard `rank` of `world_size`."""
    return f"shard-{rank:05d}-of-{world_size:05d}.parquet"


def embed_shard(home: Path, encoder: Encoder, snapshot: Snapshot, rank: int, world_size: int) -> int:
    """Embed the snapshot's rows [n·rank/world, n·(rank+1)/world) unless that is done; return the shard's rows.

    Writes passage_id, text_hash, vector (fixed-size list of float32) in snapshot order, aside, and renames; the
    shard's own manifest comes last. A vector that any earlier night made with this passage encoder from the same text
    is copied, and a text that stands several times in the shard is encoded once.
    """
    if sealed(home, encoder, snapshot, world_size) is not None:
        return _slice(snapshot, rank, world_size)[1]
    folder = _work_folder(home, _key(encoder, snapshot, world_size))
    manifest = folder / f"{shard_name(rank, world_size)}.json"
    with exclusive(folder / f".{rank:05d}.lock"):
        if manifest.exists():
            return int(json.loads(manifest.read_text())["rows"])
        with Peak() as peak:
            facts = _write_shard(home, folder / shard_name(rank, world_size), encoder, snapshot, rank, world_size)
        write_json(manifest, {**facts, "peak_mb": peak.mb})
    return int(facts["rows"])


def sealed(home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int) -> Embeddings | None:
    """The embeddings of this snapshot under this encoder, when an earlier step has sealed them."""
    digest = digest_of({"kind": "Embeddings", **_key(encoder, snapshot, world_size)})
    return finished(home / Embeddings.shelf / digest, Embeddings)


def gather_shards(home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int) -> Embeddings:
    """Seal the finished shards as one artifact; shards that are missing are embedded first.

    Raises:
        Mismatch: a shard's file is not the one that its manifest names, or rows are missing.
    """
    key = _key(encoder, snapshot, world_size)

    def build(folder: Path) -> Mapping[str, Any]:
        for rank in range(world_size):
            embed_shard(home, encoder, snapshot, rank, world_size)
        facts = [_checked(folder, rank, world_size) for rank in range(world_size)]
        for lock in folder.glob(".*.lock"):
            lock.unlink()
        totals = {name: sum(int(one[name]) for one in facts) for name in ("rows", "embedded", "avoided", "tokens")}
        if totals["rows"] != snapshot.rows:
            raise Mismatch(f"embeddings: {totals['rows']} vectors for {snapshot.rows} passages of {snapshot.digest}")
        return {
            **totals,
            "fingerprint": encoder.passage_fingerprint,
            "snapshot": snapshot.digest,
            "dimension": encoder.dimension,
            "shards": world_size,
            "seconds": sum(float(one["seconds"]) for one in facts),
            "peak_mb": max(int(one["peak_mb"]) for one in facts),
            "parents": (encoder.digest, snapshot.digest),
        }

    return produce(home, Embeddings, key, build, resumable=True)


def _key(encoder: Encoder, snapshot: Snapshot, world_size: int) -> dict[str, object]:
    return {"fingerprint": encoder.passage_fingerprint, "snapshot": snapshot.digest, "shards": world_size}


def _work_folder(home: Path, key: Mapping[str, object]) -> Path:
    folder = home / Embeddings.shelf / f".{digest_of({'kind': 'Embeddings', **key})}.partial"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _slice(snapshot: Snapshot, rank: int, world_size: int) -> tuple[int, int]:
    start, end = snapshot.rows * rank // world_size, snapshot.rows * (rank + 1) // world_size
    return start, end - start


def _write_shard(
    home: Path, target: Path, encoder: Encoder, snapshot: Snapshot, rank: int, world_size: int
) -> dict[str, Any]:
    began = time.perf_counter()
    start, rows = _slice(snapshot, rank, world_size)
    vector_type = pa.list_(pa.float32(), encoder.dimension)
    schema = pa.schema({"passage_id": pa.string(), "text_hash": pa.string(), "vector": vector_type}).with_metadata(
        {
            "fingerprint": encoder.passage_fingerprint,
            "snapshot": snapshot.digest,
            "rank": str(rank),
            "world_size": str(world_size),
        }
    )
    counts = {"rows": rows, "embedded": 0, "avoided": 0, "tokens": 0}
    aside = target.with_name(f".{target.name}")
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for window in _windows(snapshot, start, rows):
            vectors = _vectors(home, encoder, window, counts)
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), encoder.dimension)
            writer.write_table(pa.table([window["passage_id"], window["text_hash"], flat], schema=schema))
            done = counts["embedded"] + counts["avoided"]
            rate = counts["tokens"] / (time.perf_counter() - began)
            log.info("shard %d of %d: %d of %d passages, %.0f tokens/s", rank + 1, world_size, done, rows, rate)
    aside.rename(target)
    return {**counts, "seconds": time.perf_counter() - began, "digest": file_digest(target)}


def _windows(snapshot: Snapshot, start: int, rows: int) -> Iterator[pa.RecordBatch]:
    """The rows [start, start + rows) of the passages, at most WINDOW at a time."""
    seen = 0
    for batch in passages(snapshot, batch_rows=WINDOW):
        first, last = max(start - seen, 0), min(start + rows - seen, batch.num_rows)
        if first < last:
            yield batch.slice(first, last - first)
        seen += batch.num_rows
        if seen >= start + rows:
            return


def _vectors(home: Path, encoder: Encoder, window: pa.RecordBatch, counts: dict[str, int]) -> np.ndarray:
    """Vectors float32 (rows, dimension) of a window, from earlier nights where they have them."""
    hashes = window["text_hash"].to_pylist()
    found = known_vectors(home, encoder, set(hashes))
    new = {text_hash: row for row, text_hash in enumerate(hashes) if text_hash not in found}
    model: DualEncoder | None = load_encoder(encoder.path) if new else None
    if model is not None:
        texts = window.take(pa.array(list(new.values()))).select(["title", "text"]).to_pylist()
        ids = model.passage.tokenize([full_text(one["title"], one["text"]) for one in texts])
        vectors = model.passage.encode(ids, model.token_budget)
        if not np.isfinite(vectors).all():
            raise Mismatch(f"encoder {encoder.fingerprint} made a vector that is not finite; it cannot be searched")
        found |= dict(zip(new, vectors, strict=True))
        counts["tokens"] += sum(map(len, ids))
    counts["embedded"] += len(new)
    counts["avoided"] += len(hashes) - len(new)
    return np.stack([found[text_hash] for text_hash in hashes])


def _checked(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    name = shard_name(rank, world_size)
    facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    if file_digest(folder / name) != facts["digest"]:
        raise Mismatch(f"{folder / name}: not the bytes that its manifest names; remove both files and run again")
    return facts
