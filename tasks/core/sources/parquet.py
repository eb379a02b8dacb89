"""Reads Parquet files, and Hugging Face datasets folders (Parquet, or the Arrow files of `save_to_disk`).

    corpus.parquet, or corpus/*.parquet     columns _id, title, text   (or id, docid, passage_id; title may be missing)
    queries.parquet, or queries/*.arrow     columns _id, text          (or id, query_id; query)
    qrels/train.parquet, qrels/test/*.arrow columns query-id, corpus-id, score, and split where no file name gives it

The beginning of a file name gives the table (corpus or passages, queries, qrels; a folder `data` around them is
ignored), and the rest gives the split of qrels (qrels/validation-00000-of-00001.parquet: dev). Qrels without a split
are the train split. A row number is the position of a row in its file, from 1. The record of a row is the JSON of the
columns named above. Ids may be whole numbers.

Parquet is read page by page, and its checksums (if any) are verified. Arrow is read in the record batches that its
writer chose (1,000 rows for Hugging Face). At most 8,192 rows, or about 8 MiB according to the metadata of the file,
are in memory at once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import ipc

from tasks.core.base.errors import BadInput
from tasks.core.sources.columns import Layout, convert_batch
from tasks.core.sources.judgments import split_of_qrels
from tasks.core.sources.lines import CHUNK
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.split_names import split_of

_TABLES = {"corpus": "passages", "passages": "passages", "queries": "queries", "qrels": "qrels"}
_HEAD = re.compile(r"^(?:data/)?(corpus|passages|queries|qrels)(?:[-_./](.*))?$")
_NO_SPLIT = re.compile(r"^(data|qrels|part|\d+)?$")
_BATCH_ROWS = 8192
_BATCH_BYTES = 8 * 2**20
_FILE_FORMAT = b"ARROW1"
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"


@dataclass(frozen=True)
class ColumnarFiles:
    """The Parquet and Arrow files of a collection, by table."""

    location: Location
    tables: dict[str, list[Stored]]

    def files(self) -> list[Stored]:
        """Return all files, ordered by table and name."""
        return [file for files in self.tables.values() for file in files]

    def dialect(self) -> Mapping[str, object]:
        """Return an empty mapping: the rows depend only on the content of the files."""
        return {}

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream a table in the schema `rows.SCHEMAS[table]`.

        Raises BadInput for a file that cannot be read to its end, or that lacks a column.
        """
        first = 0
        for file in self.tables[table]:
            for batch in self._rows(table, file, first):
                first += batch.num_rows
                yield batch

    def _rows(self, table: str, file: Stored, first: int) -> Iterator[pa.RecordBatch]:
        done = 0
        with self.location.reading(file, lambda: f" past row {done}"), opened(self.location, file) as (schema, batches):
            split = _split(file.name)
            if table == "qrels" and split is None and "split" not in schema.names:
                split = split_of_qrels(self.location, file, "")
            layout = Layout.match(table, schema, self.location.where(file), split)
            for batch in batches:
                yield convert_batch(batch, layout, file.name, first + done, done)
                done += batch.num_rows


def locate(location: Location) -> ColumnarFiles:
    """Find the .parquet and .arrow files in `location` and its folders. Raises BadInput when a table has none."""
    tables: dict[str, list[Stored]] = {table: [] for table in ("passages", "queries", "qrels")}
    for file in location.files(deep=True):
        head = _HEAD.match(file.name)
        cached = file.name.rpartition("/")[2].startswith("cache-")  # `map` leaves these next to a saved dataset
        if head and file.name.endswith((".parquet", ".arrow")) and not cached:
            tables[_TABLES[head.group(1)]].append(file)
    for table, files in tables.items():
        if not files:
            name = "corpus" if table == "passages" else table
            raise BadInput(
                f"{location.shown}: contains no {name}.parquet, and no folder {name} of .parquet or .arrow files."
            )
    return ColumnarFiles(location, tables)


def _split(name: str) -> str | None:
    head = _HEAD.match(name)
    suffix = (head.group(2) or "").split("/")[0].removesuffix(".parquet").removesuffix(".arrow") if head else ""
    split = split_of(suffix)
    return None if _NO_SPLIT.match(split) or suffix in ("parquet", "arrow") else split


@contextmanager
def opened(location: Location, file: Stored) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """Open a Parquet or Arrow file. Yields its schema and its rows in batches of at most 8,192 rows."""
    with location.filesystem.open_input_file(file.path) as handle:
        if file.name.endswith(".parquet"):
            with pq.ParquetFile(
                handle, buffer_size=CHUNK, pre_buffer=False, page_checksum_verification=True
            ) as parquet:
                yield parquet.schema_arrow, _parquet_batches(parquet)
        elif handle.read(len(_FILE_FORMAT)) == _FILE_FORMAT:
            reader = ipc.open_file(handle)
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
            yield reader.schema, _sliced(batches)
        else:
            _check_end(handle, file)
            stream = ipc.open_stream(handle)
            yield stream.schema, _sliced(iter(stream))


def _parquet_batches(parquet: pq.ParquetFile) -> Iterator[pa.RecordBatch]:
    for number in range(parquet.num_row_groups):
        group = parquet.metadata.row_group(number)
        bytes_a_row = max(1, group.total_byte_size // max(1, group.num_rows))
        rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES // bytes_a_row))
        yield from parquet.iter_batches(rows, row_groups=[number], use_threads=False)


def _sliced(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            yield batch.slice(start, _BATCH_ROWS)


def _check_end(handle: Any, file: Stored) -> None:
    """Raise OSError when an Arrow stream lacks its end mark: one cut between two batches reads without an error."""
    handle.seek(max(0, file.size - len(_END_OF_STREAM)))
    if handle.read(len(_END_OF_STREAM)) != _END_OF_STREAM:
        raise OSError("the end mark of the Arrow stream is missing")
    handle.seek(0)
