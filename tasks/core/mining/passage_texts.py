"""Text hashes and shingle sets of each passage, to find equal and nearly equal texts without reading the texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import Mismatch
from tasks.core.base.files import produce
from tasks.core.base.mapped_arrays import map_array
from tasks.core.base.receipts import Shingles, Snapshot
from tasks.core.snapshot.reader import passages
from tasks.core.text.normalization import full_text
from tasks.core.text.shingles import WORDS, ShingleSets, shingle

VERSION = 1  # of the file format below; a change makes new artifacts
BATCH_ROWS = 16_384  # passages in memory at once
IDS_AT_ONCE = 1_000_000  # passage ids in memory at once while rows are looked up
HASHES, STARTS, SIZES, CLASSES = "hashes.u32", "starts.i64", "sizes.i64", "classes.u64"


@dataclass(frozen=True)
class Texts:
    """Text classes and shingle sets of all passages, by snapshot row. The arrays are memory-mapped files."""

    classes: np.ndarray  # uint64 (passages,): equal texts have equal numbers
    sets: ShingleSets


def build_shingles(home: Path, snapshot: Snapshot) -> Shingles:
    """Compute text classes and shingles of every passage (title and text), once per snapshot, in bounded memory."""

    def build(folder: Path) -> Mapping[str, Any]:
        rows = end = 0
        with (
            (folder / HASHES).open("wb") as hashes,
            (folder / STARTS).open("wb") as starts,
            (folder / SIZES).open("wb") as sizes,
            (folder / CLASSES).open("wb") as classes,
        ):
            for batch in passages(snapshot, batch_rows=BATCH_ROWS):
                shingle_hashes, size = shingle(_full_texts(batch))
                ends = end + np.cumsum(size)
                hashes.write(shingle_hashes.astype("<u4").tobytes())
                starts.write((ends - size).astype("<i8").tobytes())
                sizes.write(size.astype("<i8").tobytes())
                classes.write(text_classes(batch["text_hash"].to_pylist()).tobytes())
                rows, end = rows + batch.num_rows, int(ends[-1])
        return {"rows": rows, "parents": (snapshot.digest,)}

    return produce(home, Shingles, {"snapshot": snapshot.digest, "words": WORDS, "version": VERSION}, build)


def open_texts(shingles: Shingles) -> Texts:
    """Memory-map the arrays of a finished artifact."""
    kinds = {HASHES: "<u4", STARTS: "<i8", SIZES: "<i8", CLASSES: "<u8"}
    arrays = {name: map_array(shingles.path / name, kind) for name, kind in kinds.items()}
    return Texts(arrays[CLASSES], ShingleSets(arrays[HASHES], arrays[STARTS], arrays[SIZES]))


def text_classes(hashes: Sequence[str]) -> np.ndarray:
    """Return a uint64 for each text hash, its first 16 hex digits; unequal texts collide with probability 2^-64."""
    return np.array([int(digest[:16], 16) for digest in hashes], "<u8")


def rows_of(snapshot: Snapshot, ids: pa.Array) -> np.ndarray:
    """Return the snapshot rows, int64 (n,), of distinct passage ids.

    Raises:
        Mismatch: an id is not in the snapshot.
    """
    rows, first = np.full(len(ids), -1, np.int64), 0
    for batch in passages(snapshot, columns=["passage_id"], batch_rows=IDS_AT_ONCE):
        positions = pc.fill_null(pc.index_in(ids, value_set=batch["passage_id"]), -1).to_numpy(zero_copy_only=False)
        rows = np.where(positions >= 0, positions + first, rows)
        first += batch.num_rows
    missing = np.flatnonzero(rows < 0)
    if len(missing):
        raise Mismatch(
            f"{len(missing)} passages of the runs or qrels are not in snapshot {snapshot.digest},"
            f" such as {ids[int(missing[0])].as_py()!r}. Make the runs from this snapshot."
        )
    return rows


def texts_of(snapshot: Snapshot, rows: np.ndarray) -> dict[int, str]:
    """Return the full texts (title and text) at snapshot rows, int64 (n,), in one pass over the passages."""
    texts: dict[int, str] = {}
    wanted, first = np.unique(rows), 0
    for batch in passages(snapshot, columns=["title", "text"], batch_rows=BATCH_ROWS):
        low, high = np.searchsorted(wanted, (first, first + batch.num_rows))
        batch_rows = wanted[low:high]
        texts.update(
            zip(batch_rows.tolist(), _full_texts(batch.take(pa.array(batch_rows - first))).to_pylist(), strict=True)
        )
        first += batch.num_rows
    return texts


def _full_texts(batch: pa.RecordBatch) -> pa.Array:
    pairs = zip(batch["title"].to_pylist(), batch["text"].to_pylist(), strict=True)
    return pa.array([full_text(title, text) for title, text in pairs], pa.string())
