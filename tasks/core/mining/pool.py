"""What mining must know of the passages it looks at: snapshot row, text class and shingles, never the text itself."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.data.snapshot import passages
from tasks.core.data.text import full_text
from tasks.core.errors import Mismatch
from tasks.core.mining.shingles import ShingleSets, shingle
from tasks.core.receipts import Snapshot

BATCH_ROWS = 16_384  # passages of the snapshot in memory at once


@dataclass(frozen=True)
class Pool:
    """Some passages of a snapshot, in its order; row i of each field is passage i of the pool."""

    ids: pa.Array  # strings
    rows: np.ndarray  # int64: row in the snapshot
    text: np.ndarray  # int64: equal numbers for equal texts
    hashes: pa.Array  # strings: the text hash of text class 0, 1, 2, …
    sets: ShingleSets


def look_up(snapshot: Snapshot, wanted: pa.Array, scratch: Path) -> Pool:
    """Find the passages whose ids are `wanted` (distinct strings) in one pass over the snapshot.

    The shingles go into the file `scratch`, which must live as long as the pool and is mapped, not read.

    Raises Mismatch when a wanted passage is not in the snapshot.
    """
    ids, hashes, rows, sizes, first = [], [], [], [], 0
    with scratch.open("wb") as file:
        for batch in passages(snapshot, batch_rows=BATCH_ROWS):
            found = np.flatnonzero(pc.is_in(batch["passage_id"], value_set=wanted).to_numpy(zero_copy_only=False))
            some = batch.take(pa.array(found))
            ids.append(some["passage_id"])
            hashes.append(some["text_hash"])
            rows.append(found + first)
            flat, size = shingle(_texts(some))
            file.write(flat.tobytes())
            sizes.append(size)
            first += batch.num_rows
    all_ids = _joined(ids)
    if len(all_ids) != len(wanted):
        missing = wanted.filter(pc.invert(pc.is_in(wanted, value_set=all_ids)))
        raise Mismatch(
            f"{len(missing)} passages of the runs or qrels are not in snapshot {snapshot.digest},"
            f" such as {missing[0].as_py()!r}; make the runs from this snapshot"
        )
    classes = _joined(hashes).dictionary_encode()
    size = np.concatenate([np.zeros(0, np.int64), *sizes])
    return Pool(
        ids=all_ids,
        rows=np.concatenate([np.zeros(0, np.int64), *rows]),
        text=classes.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        hashes=classes.dictionary,
        sets=ShingleSets(_mapped(scratch), np.cumsum(size) - size, size),
    )


def _texts(some: pa.RecordBatch) -> pa.Array:
    pairs = zip(some["title"].to_pylist(), some["text"].to_pylist(), strict=True)
    return pa.array([full_text(title, text) for title, text in pairs], pa.string())


def _joined(parts: list[pa.Array]) -> pa.Array:
    return pa.chunked_array(parts, pa.string()).combine_chunks()


def _mapped(file: Path) -> np.ndarray:
    if file.stat().st_size == 0:  # an empty file cannot be mapped
        return np.zeros(0, np.uint32)
    return np.memmap(file, np.uint32, "r")
