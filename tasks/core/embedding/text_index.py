"""Index a snapshot's texts by hash, to find the row of a text.

The index is four plain arrays, 48 bytes per passage, built once per snapshot in bounded memory. Embeddings and token
caches of that snapshot share it, and later snapshots use it to find known texts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import find_by_key, produce, read_verified
from tasks.core.base.receipts import Snapshot, TextIndex
from tasks.core.snapshot.passage_ranges import passages_between

HASHES, SORTED, ROWS, FIRST = "hashes.s16", "sorted.s16", "rows.i64", "first.i64"
HASH, NUMBER = np.dtype("S16"), np.dtype("<i8")
BUCKET_ROWS = 1 << 20  # hashes sorted at once: about 60 MB
CHUNK_ROWS = 1 << 17  # hashes read at once


def build_index(home: Path, snapshot: Snapshot) -> TextIndex:
    """Build the index: sort the text hashes of a snapshot, and store for each row the first row with the same text."""

    def build(folder: Path) -> Mapping[str, Any]:
        with (folder / HASHES).open("wb") as file:
            for batch in passages_between(snapshot, 0, snapshot.rows, ["text_hash"], CHUNK_ROWS):
                file.write(hash_bytes(batch["text_hash"]).tobytes())
        with (folder / FIRST).open("wb") as file:
            for start in range(0, snapshot.rows, CHUNK_ROWS):
                file.write(np.arange(start, min(start + CHUNK_ROWS, snapshot.rows), dtype=NUMBER).tobytes())
        distinct = _sort(folder, snapshot.rows)
        return {
            "rows": snapshot.rows,
            "snapshot": snapshot.digest,
            "distinct": distinct,
            "parents": (snapshot.digest,),
        }

    return produce(home, TextIndex, _key(snapshot.digest), build)


def index_of(home: Path, snapshot: str) -> TextIndex | None:
    """Return the index of the snapshot with this digest, built if missing; None if the snapshot is gone too."""
    if (index := find_by_key(home, TextIndex, _key(snapshot))) is not None:
        return index
    receipt = read_verified(home / Snapshot.shelf / snapshot, Snapshot)
    return None if receipt is None else build_index(home, receipt)


def read_hashes(index: TextIndex, start: int, end: int) -> np.ndarray:
    """Return the text hashes of rows [start, end), 16 bytes each: S16 (end - start,)."""
    return _read(index.path / HASHES, HASH, start, end)


def read_first_rows(index: TextIndex, start: int, end: int) -> np.ndarray:
    """Return, for each row of [start, end), the first row of the snapshot with the same text: int64 (end - start,)."""
    return _read(index.path / FIRST, NUMBER, start, end)


def find_rows(index: TextIndex, hashes: np.ndarray) -> np.ndarray:
    """Return the first row int64 (n,) of each text hash S16 (n,); -1 if the snapshot has no such text."""
    if index.rows == 0 or len(hashes) == 0:
        return np.full(len(hashes), -1, NUMBER)
    names = np.memmap(index.path / SORTED, HASH, "r")
    rows = np.memmap(index.path / ROWS, NUMBER, "r")
    place = np.minimum(np.searchsorted(names, hashes), index.rows - 1)
    return np.where(names[place] == hashes, rows[place], -1)


def hash_bytes(names: pa.Array) -> np.ndarray:
    """Convert text hashes (strings of 32 hex digits) to S16 (n,).

    Raises Mismatch when a hash has another form.
    """
    try:
        content = bytes.fromhex("".join(names.to_pylist()))
    except (TypeError, ValueError) as error:
        raise Mismatch("text_hash of a passage: not a hash of 32 hex digits; ingest the source again") from error
    if len(content) != HASH.itemsize * len(names):
        raise Mismatch("text_hash of a passage: not a hash of 32 hex digits; ingest the source again")
    return np.frombuffer(content, HASH)


def _key(snapshot: str) -> dict[str, object]:
    return {"snapshot": snapshot, "version": 1}


def _sort(folder: Path, rows: int) -> int:
    """Write the sorted hashes and their rows, set `first` for repeated texts, and return the number of texts."""
    distinct, buckets = 0, max(1, -(-rows // BUCKET_ROWS))
    with (folder / SORTED).open("wb") as names, (folder / ROWS).open("wb") as numbers:
        for bucket in range(buckets):
            hashes, at = _bucket(folder, rows, bucket, buckets)
            order = np.argsort(hashes, kind="stable")  # stable, so the first row of a text comes first
            hashes, at = hashes[order], at[order]
            names.write(hashes.tobytes())
            numbers.write(at.tobytes())
            new = np.ones(len(at), bool)
            new[1:] = hashes[1:] != hashes[:-1]
            if not new.all():
                first = np.memmap(folder / FIRST, NUMBER, "r+")
                first[at[~new]] = at[new][np.cumsum(new) - 1][~new]
            distinct += int(new.sum())
    return distinct


def _bucket(folder: Path, rows: int, bucket: int, buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes in one of `buckets` equal ranges of the hash space, and their rows."""
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for start, hashes in _chunks(folder / HASHES, rows):
        heads = hashes.view(">u4")[::4].astype(np.uint64)  # the first four bytes preserve the sort order
        inside = np.flatnonzero((heads * np.uint64(buckets)) >> np.uint64(32) == bucket)
        parts.append((hashes[inside], inside + start))
    if not parts:
        return np.zeros(0, HASH), np.zeros(0, NUMBER)
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts]).astype(NUMBER)


def _chunks(file: Path, rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, rows, CHUNK_ROWS):
        yield start, _read(file, HASH, start, min(start + CHUNK_ROWS, rows))


def _read(file: Path, kind: np.dtype[Any], start: int, end: int) -> np.ndarray:
    return np.fromfile(file, kind, end - start, offset=start * kind.itemsize)
