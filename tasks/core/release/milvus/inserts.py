"""Convert record batches to the requests that insert them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tasks.core.embedding.stored_shards import matrix

REQUEST_BYTES = 16 << 20  # data per insert; a Milvus server rejects messages of 64 MiB


def requests_of(batch: pa.RecordBatch) -> Iterator[list[dict[str, Any]]]:
    """Yield the rows of a batch as lists of records of at most `REQUEST_BYTES`."""
    for part in _split_batch(batch):
        yield _to_records(part)


def _split_batch(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """Split a batch into parts of at most `REQUEST_BYTES`."""
    if batch.num_rows > 1 and batch.nbytes > REQUEST_BYTES:
        half = batch.num_rows // 2
        # Copy: for some Arrow types, the size of a slice includes its parent's buffers.
        yield from _split_batch(batch.take(pa.array(range(half))))
        yield from _split_batch(batch.take(pa.array(range(half, batch.num_rows))))
    else:
        yield batch


def _to_records(batch: pa.RecordBatch) -> list[dict[str, Any]]:
    vectors = matrix(batch["vector"], batch["vector"].type.list_size)
    records: list[dict[str, Any]] = batch.drop_columns(["vector"]).to_pylist()
    for record, vector in zip(records, vectors, strict=True):
        record["vector"] = vector
    return records
