"""Reads a range of passages from the row groups that contain it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.reader import PASSAGES


def passages_between(
    snapshot: Snapshot, start: int, end: int, columns: Sequence[str], batch_rows: int = 4096
) -> Iterator[pa.RecordBatch]:
    """Stream the passages in rows [start, end) of a snapshot, in order, in batches of up to `batch_rows` rows."""
    with pq.ParquetFile(snapshot.path / PASSAGES, pre_buffer=False) as file:
        sizes = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
        groups: list[int] = []
        first = seen = 0
        for group, size in enumerate(sizes):
            if seen < end and seen + size > start:
                first = first if groups else seen
                groups.append(group)
            seen += size
        if start >= end or not groups:
            return
        for batch in file.iter_batches(batch_rows, row_groups=groups, columns=list(columns)):
            low, high = max(start - first, 0), min(end - first, batch.num_rows)
            if low < high:
                yield batch.slice(low, high - low)
            first += batch.num_rows
