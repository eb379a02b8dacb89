"""Stores the long texts of a table outside the database: concatenated in one file, addressed by offset and size.

Queries read narrow rows, however long the texts are. A text is read only when a caller requests it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# The columns stored in text files. Instead of `text`, staged rows have `text_at` (offset in bytes) and `text_size`
# (bytes); both are null where the text is null.
LONG_COLUMNS = {
    "passages": ("text", "record"),
    "queries": ("record",),
    "qrels": ("record",),
    "pairs": (),
    "clicks": ("record",),
    "judgments": ("record",),
}


def long_texts(scratch: Path, table: str, column: str) -> Path:
    """Return the path of the file with the texts of a column."""
    return scratch / f"{table}_{column}.txt"


class LongTextWriter:
    """Appends texts to a file."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("wb")
        self._end = 0

    def add(self, texts: pa.Array) -> tuple[pa.Array, pa.Array]:
        """Append `texts` (strings). Return the offset and size of each in bytes, int64; null where the text is null."""
        _, offsets, content = texts.buffers()
        if not len(texts) or content is None:
            starts = np.full(len(texts), self._end)
        else:
            ends = np.frombuffer(offsets, np.int32, len(texts) + 1, offset=4 * texts.offset).astype(np.int64)
            self._stream.write(memoryview(content)[ends[0] : ends[-1]])
            starts = ends[:-1] - ends[0] + self._end
            self._end += int(ends[-1] - ends[0])
        null = texts.is_null().to_numpy(zero_copy_only=False)
        return pa.array(starts, pa.int64(), mask=null), pc.binary_length(texts).cast(pa.int64())

    def __enter__(self) -> LongTextWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


class LongTextReader:
    """Reads texts at given offsets of a file; memory holds only the requested texts."""

    def __init__(self, file: Path) -> None:
        self._stream = file.open("rb", buffering=0)

    def read(self, starts: pa.Array, sizes: pa.Array) -> pa.Array:
        """Return the texts at offsets `starts` with `sizes` bytes, as binary UTF-8; null where the offset is null."""
        ends = np.concatenate([[0], np.cumsum(pc.fill_null(sizes, 0).to_numpy())])
        content = pa.allocate_buffer(int(ends[-1]))  # exact size: a growing buffer would take several times as much
        view, handle = memoryview(content), self._stream.fileno()
        for at, begin, end in zip(starts.to_pylist(), ends[:-1].tolist(), ends[1:].tolist(), strict=True):
            if end > begin:
                os.preadv(handle, (view[begin:end],), at)
        offsets = pa.py_buffer(ends.astype(np.int32))
        texts = pa.Array.from_buffers(pa.binary(), len(starts), [None, offsets, content])
        return pc.if_else(starts.is_valid(), texts, None) if starts.null_count else texts

    def __enter__(self) -> LongTextReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stream.close()


def split_by_size(batch: pa.RecordBatch, sizes: str, limit: int) -> Iterator[pa.RecordBatch]:
    """Split a batch into parts whose column `sizes` adds up to about `limit`; a single row may exceed it."""
    weights = pc.fill_null(batch[sizes], 0).to_numpy()
    cuts = np.flatnonzero(np.diff(np.cumsum(weights) // limit)) + 1
    edges = [0, *cuts.tolist(), batch.num_rows]
    return (batch.slice(start, end - start) for start, end in pairwise(edges) if end > start)
