"""The rows of a collection: passages and vectors read side by side, each pair checked, a batch in memory at a time."""

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

LIMIT = 65_535  # bytes in a Milvus VARCHAR, the largest there is
COLUMNS = ["passage_id", "title", "text", "text_hash"]


def rows_with_vectors(
    snapshot: Snapshot, embeddings: Embeddings, size: int, limit: int | None = LIMIT
) -> Iterator[pa.RecordBatch]:
    """The snapshot's passages with their vectors, `size` rows at a time, in snapshot order.

    Columns: row int64, passage_id, title, text, text_hash strings, whole bool, vector fixed_size_list<float32>.
    A title or text beyond `limit` bytes is cut and `whole` is false: the snapshot keeps it entire. None cuts nothing.

    Raises:
        Mismatch: a shard's ids or hashes are not the snapshot's, rows are missing, a vector is not finite.
        BadInput: a passage id longer than Milvus can hold.
    """
    first = 0
    left = _rebatched(passages(snapshot, columns=COLUMNS, batch_rows=size), size)
    right = _rebatched(_vectors(embeddings, size), size)
    for texts in left:
        vectors = next(right, None)
        if vectors is None or vectors.num_rows != texts.num_rows:
            rows = first + (0 if vectors is None else vectors.num_rows)
            raise Mismatch(f"embeddings {embeddings.digest}: {rows} vectors for {snapshot.rows} passages; embed again")
        _check_same(texts, vectors, first, embeddings)
        _check_vectors(vectors["vector"], embeddings, first)
        yield _row_batch(texts, vectors["vector"], first, limit)
        first += texts.num_rows
    if next(right, None) is not None:
        raise Mismatch(f"embeddings {embeddings.digest}: more vectors than the {first} passages; embed again")


def _vectors(embeddings: Embeddings, size: int) -> Iterator[pa.RecordBatch]:
    for shard in shard_files(embeddings):
        try:
            file = pq.ParquetFile(shard, pre_buffer=False)
        except pa.ArrowInvalid as error:
            raise Mismatch(
                f"{shard}: not a whole Parquet file ({error}); remove its artifact and embed again"
            ) from error
        for batch in file.iter_batches(size, columns=["passage_id", "text_hash", "vector"]):
            yield batch.set_column(2, "vector", _float32(batch["vector"]))


def _float32(vectors: pa.Array) -> pa.Array:
    """Vectors as the collection takes them, whatever numbers they are stored in."""
    kind = vectors.type
    return vectors.cast(pa.list_(pa.float32(), kind.list_size)) if pa.types.is_fixed_size_list(kind) else vectors


def _rebatched(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `size` rows, the last one perhaps shorter."""
    waiting: pa.Table | None = None
    for batch in batches:
        table = pa.Table.from_batches([batch])
        waiting = table if waiting is None else pa.concat_tables([waiting, table])
        while waiting.num_rows >= size:
            yield waiting.slice(0, size).combine_chunks()
            waiting = waiting.slice(size)
    if waiting is not None and waiting.num_rows:
        yield waiting.combine_chunks()


def _check_same(texts: pa.Table, vectors: pa.Table, first: int, embeddings: Embeddings) -> None:
    for name in ("passage_id", "text_hash"):
        ours, theirs = texts[name].cast(pa.string()), vectors[name].cast(pa.string())
        if ours.equals(theirs):
            continue
        at = pc.index(pc.equal(ours, theirs).fill_null(False), False).as_py()
        raise Mismatch(
            f"embeddings {embeddings.digest}, row {first + at}: {name} {theirs[at].as_py()!r}, "
            f"the snapshot has {ours[at].as_py()!r}. These vectors belong to other passages; embed again."
        )


def _check_vectors(column: pa.ChunkedArray, embeddings: Embeddings, first: int) -> None:
    if getattr(column.type, "list_size", None) != embeddings.dimension or column.null_count:
        raise Mismatch(f"embeddings {embeddings.digest}: {column.type}, not {embeddings.dimension} numbers a vector")
    finite = np.isfinite(matrix(column.combine_chunks(), embeddings.dimension)).all(axis=1)
    if not finite.all():
        raise Mismatch(
            f"embeddings {embeddings.digest}, row {first + int(np.argmin(finite))}: the vector is not finite; "
            "the encoder is broken: train again, or take fp32 as its numeric path"
        )


def _row_batch(texts: pa.Table, vectors: pa.ChunkedArray, first: int, limit: int | None) -> pa.RecordBatch:
    title, text = texts["title"].fill_null(""), texts["text"]
    most = sys.maxsize if limit is None else limit
    short = pc.and_(*(pc.less_equal(pc.binary_length(one.cast(pa.binary())), most) for one in (title, text)))
    too_long = pc.greater(pc.binary_length(texts["passage_id"].cast(pa.binary())), LIMIT)
    if pc.any(too_long).as_py():
        at = first + pc.index(too_long, True).as_py()
        raise BadInput(f"row {at} of the snapshot: its passage id is longer than {LIMIT} bytes; give it a shorter one")
    if not pc.all(short).as_py():
        title, text = _clipped(title, most), _clipped(text, most)
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


def _clipped(texts: pa.ChunkedArray, most: int) -> pa.Array:
    """Every text cut to `most` bytes, never inside a character."""
    return pa.array([one.encode()[:most].decode(errors="ignore") for one in texts.to_pylist()], pa.string())
