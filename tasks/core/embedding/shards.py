"""Passages into vectors: one Parquet file a shard, each text once, resumable at the grain of a window."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from tasks.core.base.checksums import check_digest, digest_once
from tasks.core.base.errors import Mismatch
from tasks.core.base.files import exclusive, find_by_key, produce, write_json
from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot, TextIndex
from tasks.core.embedding.assemble import assemble, others_needed
from tasks.core.embedding.plan import Plan, plan_of
from tasks.core.embedding.progress import SpeedMeter, Watch
from tasks.core.embedding.read_ahead import BackgroundWriter, read_ahead
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.stored_shards import shard_name
from tasks.core.embedding.text_index import build_index
from tasks.core.embedding.token_cache import TokenCache
from tasks.core.encoder.dual_encoder import load_encoder

log = logging.getLogger("nightshift.embedding")

WINDOW = 4096  # texts sorted by length and encoded together, and kept together; bounds memory
COUNTS = ("rows", "embedded", "avoided", "repeated", "tokens")


def embed_shard(
    home: Path,
    encoder: Encoder,
    snapshot: Snapshot,
    rank: int,
    world_size: int,
    *,
    vectors: str = "float32",
    watch: Watch | None = None,
) -> int:
    """Embed the snapshot's rows [n·rank/world, n·(rank+1)/world) unless that is done; return the shard's rows.

    Writes passage_id, text_hash, vector (fixed-size list of `vectors`, "float32" or "float16") in snapshot order,
    aside, and renames; the shard's own manifest comes last. Only texts that are the first of their kind in the whole
    snapshot, and that no earlier night embedded with this passage encoder, go through the encoder; every window of
    them is kept when it is done, and a killed shard goes on behind it. A shard that repeats texts of one before it
    which is not done yet is encoded now, and its file is written by `gather_shards`. `watch` hears every few seconds.
    """
    work = ShardWork(home, encoder, snapshot, rank, world_size, vectors)
    if find_embeddings(home, encoder, snapshot, world_size, vectors) is not None:
        return work.end - work.start
    work.folder.mkdir(parents=True, exist_ok=True)
    with exclusive(work.folder / f".{rank:05d}.lock"):
        if not work.manifest.exists():
            began = time.perf_counter()
            with Peak() as peak:
                facts = _make(work, watch)
            if facts is not None:
                measured = {"seconds": time.perf_counter() - began, "peak_mb": peak.mb}
                write_json(work.manifest, {**facts, **measured})
                shutil.rmtree(work.scratch)
    return work.end - work.start


def find_embeddings(
    home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int, vectors: str = "float32"
) -> Embeddings | None:
    """The embeddings of this snapshot under this encoder, when an earlier step has sealed them."""
    return find_by_key(home, Embeddings, ShardWork(home, encoder, snapshot, 0, world_size, vectors).key)


def gather_shards(
    home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int, *, vectors: str = "float32"
) -> Embeddings:
    """Seal the finished shards as one artifact; shards that are missing are embedded first.

    Raises:
        Mismatch: rows are missing.
        Damaged: a shard's file is not the one that its manifest names.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        for rank in range(world_size):  # in this order, so that whoever repeats a text finds its vector
            embed_shard(home, encoder, snapshot, rank, world_size, vectors=vectors)
        facts = [_checked(folder, rank, world_size) for rank in range(world_size)]
        totals = {name: sum(int(one[name]) for one in facts) for name in COUNTS}
        if totals["rows"] != snapshot.rows:
            raise Mismatch(f"embeddings: {totals['rows']} vectors for {snapshot.rows} passages of {snapshot.digest}")
        if totals["embedded"]:
            _tokens(home, encoder, snapshot).seal()
        _tidy(folder)
        return {
            **totals,
            "fingerprint": encoder.passage_fingerprint,
            "snapshot": snapshot.digest,
            "dimension": encoder.dimension,
            "shards": world_size,
            "vectors": vectors,
            "digests": tuple(one["digest"] for one in facts),
            "seconds": sum(float(one["seconds"]) for one in facts),
            "peak_mb": max(int(one["peak_mb"]) for one in facts),
            "parents": (encoder.digest, snapshot.digest),
        }

    return produce(
        home, Embeddings, ShardWork(home, encoder, snapshot, 0, world_size, vectors).key, build, resumable=True
    )


def _make(work: ShardWork, watch: Watch | None) -> dict[str, Any] | None:
    """Encode what has to be encoded, then write the shard; its facts, None when it has to wait for another shard."""
    index = build_index(work.home, work.snapshot)
    plan = plan_of(work, index)
    counts = {**plan.counts(), "tokens": 0}
    parts = _encoded(work, plan, index, counts, watch)
    if not all(work.other(rank).manifest.exists() for rank in others_needed(work, plan)):
        log.info("shard %d of %d repeats texts of one that is not done: to be gathered", work.rank + 1, work.world_size)
        return None
    content = assemble(work, plan, parts, counts)
    log.info(
        "shard %d of %d: %s passages, %s encoded, %s vectors reused", work.rank + 1, work.world_size,
        *(f"{number:,}" for number in (work.end - work.start, counts["embedded"], counts["avoided"])),
    )  # fmt: skip
    return {"rows": work.end - work.start, **counts, "content": content, "digest": digest_once(work.file)}


def _encoded(work: ShardWork, plan: Plan, index: TextIndex, counts: dict[str, int], watch: Watch | None) -> list[Path]:
    """The files with the vectors of `plan.encode`, a window each; those that an earlier try left are not made again."""
    rows = plan.encode
    windows = [rows[low : low + WINDOW] for low in range(0, len(rows), WINDOW)]
    parts = [work.scratch / f"window-{number:06d}" for number in range(len(windows))]
    todo = [number for number, part in enumerate(parts) if not _whole(part, len(windows[number]), work)]
    if not windows:
        return parts
    model = load_encoder(work.encoder.path)
    tokens = TokenCache(work.home, model.passage, work.snapshot, index)
    done = len(rows) - sum(len(windows[number]) for number in todo)
    meter = SpeedMeter(work.rank, work.world_size, done, len(rows), watch)

    def read() -> Iterator[tuple[int, list[Any]]]:
        for number in todo:
            yield number, tokens.take(windows[number])

    with BackgroundWriter() as writer:
        for number, ids in read_ahead(read()):
            made = model.passage.encode(ids, model.token_budget)
            writer.do(_keep, parts[number], _finite(made.astype(work.vectors, copy=False), work.encoder))
            meter.add(len(ids), sum(map(len, ids)))
    counts["tokens"] = sum(int(tokens.lengths(window).sum()) for window in windows)
    return parts


def _whole(part: Path, rows: int, work: ShardWork) -> bool:
    """Whether an earlier try left the vectors of a window, all of them."""
    size = rows * work.encoder.dimension * np.dtype(work.vectors).itemsize
    return part.exists() and part.stat().st_size == size


def _finite(vectors: np.ndarray, encoder: Encoder) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise Mismatch(
            f"encoder {encoder.fingerprint} made a vector that is not finite in {vectors.dtype}. "
            'Set [embedding] vectors = "float32" and precision = "fp32"; if that does not help, lower [training] '
            "learning_rate."
        )
    return vectors


def _keep(part: Path, vectors: np.ndarray) -> None:
    aside = part.with_name(f".{part.name}")
    with aside.open("wb") as file:
        vectors.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(part)


def _tokens(home: Path, encoder: Encoder, snapshot: Snapshot) -> TokenCache:
    return TokenCache(home, load_encoder(encoder.path).passage, snapshot, build_index(home, snapshot))


def _checked(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    name = shard_name(rank, world_size)
    facts: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    check_digest(folder / name, facts["digest"])
    return facts


def _tidy(folder: Path) -> None:
    """Remove what the work has left: locks, and scratch of a process that was killed behind its last line."""
    for left in folder.glob(".*"):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()
