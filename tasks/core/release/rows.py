"""Read passages with their vectors as rows of a collection. Checks every pair; keeps one batch in memory."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.errors import BadInput, Mismatch
from tasks.core.base.receipts import Embeddings, Snapshot
from tasks.core.embedding.stored_shards import matrix, shard_files
from tasks.core.snapshot.reader import passages

LIMIT = 65_535  # maximum bytes of a Milvus VARCHAR
COLUMNS = ["passage_id", "title", "text", "text_hash"]


def rows_with_vectors(
    snapshot: Snapshot, embeddings: Embeddings, size: int, limit: int | None = LIMIT
) -> Iterator[pa.RecordBatch]:
    """Yield the snapshot's passages with their vectors, in snapshot order.

    Columns: row int64; passage_id, title, text, text_hash string; whole bool; vector fixed_size_list<float32>.

    Args:
        snapshot: the passages.
        embeddings: their vectors.
        size: rows per batch.
        limit: maximum bytes of a title or text. Longer ones are truncated and get `whole` = false; the snapshot keeps
            the full text. None: no limit.

    Raises:
        Mismatch: ids or hashes of a shard are not the snapshot's, rows are missing, or a vector is not finite.
        BadInput: a passage id is too long for Milvus.
    """
    first = 0
    left = _rebatch(passages(snapshot, columns=COLUMNS, batch_rows=size), size)
    right = _rebatch(_read_vectors(embeddings, size), size)
    for texts in left:
        vectors = next(right, None)
        if vectors is None or vectors.num_rows != texts.num_rows:
            rows = first + (0 if vectors is None else vectors.num_rows)
            raise Mismatch(f"embeddings {embeddings.digest}: {rows} vectors for {snapshot.rows} passages; embed again")
        _check_keys(texts, vectors, first, embeddings)
        _check_vectors(vectors["vector"], embeddings, first)
        yield _row_batch(texts, vectors["vector"], first, limit)
        first += texts.num_rows
    if next(right, None) is not None:
        raise Mismatch(f"embeddings {embeddings.digest}: more vectors than the {first} passages; embed again")


def _read_vectors(embeddings: Embeddings, size: int) -> Iterator[pa.RecordBatch]:
    for shard in shard_files(embeddings):
        try:
            file = pq.ParquetFile(shard, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise Mismatch(
                f"{shard}: not a whole Parquet file ({error}); remove its artifact and embed again"
            ) from error
        for batch in file.iter_batches(size, columns=["passage_id", "text_hash", "vector"]):
            yield batch.set_column(2, "vector", _to_float32(batch["vector"]))


def _to_float32(vectors: pa.Array) -> pa.Array:
    """Convert vectors of any numeric type to float32."""
    kind = vectors.type
    return vectors.cast(pa.list_(pa.float32(), kind.list_size)) if pa.types.is_fixed_size_list(kind) else vectors


def _rebatch(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of exactly `size` rows; the last table may be shorter."""
    waiting: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if waiting is not None and waiting.num_rows:
        yield waiting.combine_chunks()


def _check_keys(texts: pa.Table, vectors: pa.Table, first: int, embeddings: Embeddings) -> None:
    for name in ("passage_id", "text_hash"):
        expected, stored = texts[name].cast(pa.string()), vectors[name].cast(pa.string())
        if expected.equals(stored):
            continue
        at = pc.index(pc.equal(expected, stored).fill_null(False), False).as_py()
        raise Mismatch(
            f"embeddings {embeddings.digest}, row {first + at}: {name} {stored[at].as_py()!r}, "
            f"the snapshot has {expected[at].as_py()!r}. These vectors belong to other passages; embed again."
        )


def _check_vectors(column: pa.ChunkedArray, embeddings: Embeddings, first: int) -> None:
    if getattr(column.type, "list_size", None) != embeddings.dimension or column.null_count:
        raise Mismatch(
            f"embeddings {embeddings.digest}: {column.type}, expected vectors of {embeddings.dimension} numbers"
        )
    finite = np.isfinite(matrix(column.combine_chunks(), embeddings.dimension)).all(axis=1)
    if not finite.all():
        raise Mismatch(
            f"embeddings {embeddings.digest}, row {first + int(np.argmin(finite))}: the vector is not finite; "
            "the encoder is broken. Train again, or use fp32 as its numeric path"
        )


def _row_batch(texts: pa.Table, vectors: pa.ChunkedArray, first: int, limit: int | None) -> pa.RecordBatch:
    title, text = texts["title"].fill_null(""), texts["text"]
    max_bytes = sys.maxsize if limit is None else limit
    short = pc.and_(*(pc.less_equal(pc.binary_length(part.cast(pa.binary())), max_bytes) for part in (title, text)))
    too_long = pc.greater(pc.binary_length(texts["passage_id"].cast(pa.binary())), LIMIT)
    if pc.any(too_long).as_py():
        at = first + pc.index(too_long, True).as_py()
        raise BadInput(f"row {at} of the snapshot: its passage id is longer than {LIMIT} bytes; shorten it")
    if not pc.all(short).as_py():
        title, text = _truncate(title, max_bytes), _truncate(text, max_bytes)
    columns = {
        "row": pa.array(np.arange(first, first + len(text))),
        "passage_id": texts["passage_id"],
        "title": title,
        "text": text,
        "text_hash": texts["text_hash"],
        "whole": short,
        "vector": vectors,
    }
    return pa.table(columns).combine_chunks().to_batches()[0]


def _truncate(texts: pa.ChunkedArray, max_bytes: int) -> pa.Array:
    """Truncate every text to at most `max_bytes` UTF-8 bytes, without splitting a character."""
    return pa.array([text.encode()[:max_bytes].decode(errors="ignore") for text in texts.to_pylist()], pa.string())
