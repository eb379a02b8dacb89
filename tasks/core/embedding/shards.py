"""Embed passages: one Parquet file for each shard, each distinct text once, resumable after each window.

For an encoder with a passage map, the vectors of its trunk are embedded first, and its own are derived from them.
"""

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
from tasks.core.base.read_ahead import BackgroundWriter, read_ahead
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot, TextIndex
from tasks.core.embedding.assemble import assemble, required_shards
from tasks.core.embedding.derived import Deriver, measure_fidelity, trunk_of
from tasks.core.embedding.plan import Plan, prepare_plan
from tasks.core.embedding.progress import SpeedMeter, Watch
from tasks.core.embedding.shard_work import ShardWork
from tasks.core.embedding.stored_shards import shard_name
from tasks.core.embedding.text_index import build_index
from tasks.core.embedding.token_cache import TokenCache
from tasks.core.encoder.dual_encoder import load_encoder

log = logging.getLogger("nightshift.embedding")

WINDOW = 4096  # texts that are sorted by length, encoded, and saved together; bounds memory
COUNTS = ("rows", "embedded", "avoided", "repeated", "tokens", "derived")


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
    """Embed the snapshot's rows [n·rank/world, n·(rank+1)/world). Do nothing if the shard is finished.

    vectors: number format, "float32" or "float16". watch: called with the pace every few seconds.

    The shard's file has the columns passage_id, text_hash, and vector (fixed-size list), in snapshot order. It is
    written to a temporary file and renamed; the shard's manifest is written last. Only the first occurrence of a text
    in the snapshot is encoded, and only if no earlier night embedded it with this passage encoder. Every finished
    window is saved, so a killed shard resumes after its last window. If a shard repeats texts of an earlier, unfinished
    shard, its other texts are encoded now, and `gather_shards` writes its file.

    For an encoder with a passage map, this embeds the trunk's shard unless the trunk's shards are sealed, and then
    derives the shard from it.

    Returns the number of rows of the shard.
    """
    work = ShardWork(home, encoder, snapshot, rank, world_size, vectors)
    if find_embeddings(home, encoder, snapshot, world_size, vectors) is not None:
        return work.end - work.start
    parent = trunk_of(encoder)
    trunk = None if parent is None else find_embeddings(home, parent, snapshot, world_size, vectors)
    if parent is not None and trunk is None:
        return embed_shard(home, parent, snapshot, rank, world_size, vectors=vectors, watch=watch)
    work.folder.mkdir(parents=True, exist_ok=True)
    with exclusive(work.folder / f".{rank:05d}.lock"):
        if not work.manifest.exists():
            started = time.perf_counter()
            with Peak() as peak:
                manifest = _embed(work, trunk, watch)
            if manifest is not None:
                measured = {"seconds": time.perf_counter() - started, "peak_mb": peak.mb}
                write_json(work.manifest, {**manifest, **measured})
                shutil.rmtree(work.scratch)
    return work.end - work.start


def find_embeddings(
    home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int, vectors: str = "float32"
) -> Embeddings | None:
    """Return the sealed embeddings of this snapshot under this encoder; None if there are none."""
    return find_by_key(home, Embeddings, ShardWork(home, encoder, snapshot, 0, world_size, vectors).key)


def gather_shards(
    home: Path, encoder: Encoder, snapshot: Snapshot, world_size: int, *, vectors: str = "float32"
) -> Embeddings:
    """Seal all shards as one artifact, after embedding missing shards, and those of the trunk if there is a map.

    Raises:
        Mismatch: rows are missing, or derived vectors differ from encoded ones.
        Damaged: a shard's file does not match its manifest.
    """

    def build(folder: Path) -> Mapping[str, Any]:
        trunk = trunk_of(encoder)
        parents = [] if trunk is None else [gather_shards(home, trunk, snapshot, world_size, vectors=vectors).digest]
        for rank in range(world_size):  # in this order, because a shard may need vectors of earlier shards
            embed_shard(home, encoder, snapshot, rank, world_size, vectors=vectors)
        manifests = [_read_manifest(folder, rank, world_size) for rank in range(world_size)]
        totals = {name: sum(int(manifest.get(name, 0)) for manifest in manifests) for name in COUNTS}
        if totals["rows"] != snapshot.rows:
            raise Mismatch(f"embeddings: {totals['rows']} vectors for {snapshot.rows} passages of {snapshot.digest}")
        if totals["embedded"]:
            _token_cache(home, encoder, snapshot).seal()
        files = [folder / shard_name(rank, world_size) for rank in range(world_size)]
        fidelity = measure_fidelity(encoder, snapshot, files) if parents else None
        _clean_up(folder)
        return {
            **totals,
            "fingerprint": encoder.passage_fingerprint,
            "snapshot": snapshot.digest,
            "dimension": encoder.dimension,
            "shards": world_size,
            "vectors": vectors,
            "digests": tuple(manifest["digest"] for manifest in manifests),
            "seconds": sum(float(manifest["seconds"]) for manifest in manifests),
            "peak_mb": max(int(manifest["peak_mb"]) for manifest in manifests),
            "fidelity": fidelity,
            "parents": (encoder.digest, snapshot.digest, *parents),
        }

    return produce(
        home, Embeddings, ShardWork(home, encoder, snapshot, 0, world_size, vectors).key, build, resumable=True
    )


def _embed(work: ShardWork, trunk: Embeddings | None, watch: Watch | None) -> dict[str, Any] | None:
    """Encode the texts of the plan, or derive their vectors from the trunk's, then write the shard.

    Returns the content of its manifest; None if it needs vectors of a shard that is not finished.
    """
    index = build_index(work.home, work.snapshot)
    plan = prepare_plan(work, index)
    counts = {**plan.counts(), "tokens": 0}
    parent: dict[str, str] = {}
    if trunk is None:
        parts = _encode_windows(work, plan, index, counts, watch)
    else:
        deriver = Deriver(work.encoder, trunk, work.rank)
        parts, parent = _derive_windows(work, plan, deriver, counts), deriver.parent
    if not all(work.other(rank).manifest.exists() for rank in required_shards(work, plan)):
        log.info(
            "shard %d of %d repeats texts of an unfinished shard; its file is written when all shards are gathered",
            *(work.rank + 1, work.world_size),
        )
        return None
    content = assemble(work, plan, parts, {**counts, **parent})
    derived = counts.get("derived", 0)
    made = f"{derived:,} derived" if derived else f"{counts['embedded']:,} encoded"
    reused = f"{counts['avoided'] - derived:,} vectors reused"
    place = f"shard {work.rank + 1} of {work.world_size}"
    log.info("%s: %s passages, %s, %s", place, f"{work.end - work.start:,}", made, reused)
    return {"rows": work.end - work.start, **counts, "content": content, "digest": digest_once(work.file)}


def _encode_windows(
    work: ShardWork, plan: Plan, index: TextIndex, counts: dict[str, int], watch: Watch | None
) -> list[Path]:
    """Encode `plan.encode` and return one file of vectors for each window. Reuse the windows of an earlier run."""
    rows = plan.encode
    windows, parts = _windows(work, plan)
    todo = [number for number, part in enumerate(parts) if not _is_complete(part, len(windows[number]), work)]
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
            encoded = model.passage.encode_trunk(ids, model.token_budget)
            writer.do(_save, parts[number], _check_finite(encoded.astype(work.vectors, copy=False), work.encoder))
            meter.add(len(ids), sum(map(len, ids)))
    counts["tokens"] = sum(int(tokens.lengths(window).sum()) for window in windows)
    return parts


def _derive_windows(work: ShardWork, plan: Plan, deriver: Deriver, counts: dict[str, int]) -> list[Path]:
    """Derive the vectors of `plan.encode`, as `_encode_windows` encodes them; count them as avoided."""
    windows, parts = _windows(work, plan)
    for rows, part in zip(windows, parts, strict=True):
        if not _is_complete(part, len(rows), work):
            _save(part, _check_finite(deriver.derive(rows).astype(work.vectors, copy=False), work.encoder))
    derived = counts["embedded"]
    counts.update(embedded=0, avoided=counts["avoided"] + derived, derived=derived)
    return parts


def _windows(work: ShardWork, plan: Plan) -> tuple[list[np.ndarray], list[Path]]:
    """Return the rows of each window of `plan.encode`, and the file of its vectors."""
    rows = plan.encode
    windows = [rows[low : low + WINDOW] for low in range(0, len(rows), WINDOW)]
    return windows, [work.scratch / f"window-{number:06d}" for number in range(len(windows))]


def _is_complete(part: Path, rows: int, work: ShardWork) -> bool:
    """Return True if an earlier run saved all vectors of a window."""
    size = rows * work.encoder.dimension * np.dtype(work.vectors).itemsize
    return part.exists() and part.stat().st_size == size


def _check_finite(vectors: np.ndarray, encoder: Encoder) -> np.ndarray:
    if not np.isfinite(vectors).all():
        raise Mismatch(
            f"encoder {encoder.fingerprint} computed a vector with NaN or infinite values in {vectors.dtype}. "
            'Set [embedding] vectors = "float32" and precision = "fp32"; if that does not help, lower [training] '
            "learning_rate."
        )
    return vectors


def _save(part: Path, vectors: np.ndarray) -> None:
    temporary = part.with_name(f".{part.name}")
    with temporary.open("wb") as file:
        vectors.tofile(file)
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(part)


def _token_cache(home: Path, encoder: Encoder, snapshot: Snapshot) -> TokenCache:
    return TokenCache(home, load_encoder(encoder.path).passage, snapshot, build_index(home, snapshot))


def _read_manifest(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    name = shard_name(rank, world_size)
    manifest: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    check_digest(folder / name, manifest["digest"])
    return manifest


def _clean_up(folder: Path) -> None:
    """Remove locks and the scratch folders of processes that were killed before they cleaned up."""
    for path in folder.glob(".*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
