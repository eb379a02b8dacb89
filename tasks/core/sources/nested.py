"""Reads sources whose records have a query together with its passages, and splits them into the three tables.

Each record is read once, and its rows are written to one temporary file per table. Rows with the same id and the same
content become one row, the first. Where an id is missing, a digest of the text is the id. An unreadable record becomes
a row of queries with a fault; a record with an unreadable query keeps its passages.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.snapshot.splits import Split
from tasks.core.sources.examples import LABELS, Names, Part, parts
from tasks.core.sources.lines import head_of
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import SCHEMAS, Fault, Raw, Rows, Values
from tasks.core.sources.split_names import split_of

_log = logging.getLogger("nightshift.ingest")
_IDENTITY = {  # rows with equal values become one row; texts are compared by digest, to save memory
    "passages": "passage_id, title, md5(text)",
    "queries": "query_id, md5(text)",
    "qrels": "query_id, passage_id, split, relevance",
}
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class NestedSource:
    """Files of records. The name of each file gives its split; several files may have the same split.

    If no file is named train, the files whose names give no known split are the train split.
    """

    location: Location
    data_files: list[Stored]
    records: Callable[[Location, Stored], Iterator[Raw]]
    names: Names
    columns: Mapping[str, str] = field(default_factory=dict)  # chosen by the user: query, passage

    def files(self) -> list[Stored]:
        """Return all files, ordered by name."""
        return self.data_files

    def dialect(self) -> Mapping[str, object]:
        """Return whether records are labeled, and the columns that the user chose; empty without both."""
        fields = [f'"{name}"'.encode() for name in LABELS]
        labeled = any(name in head_of(self.location, file) for file in self.data_files for name in fields)
        labels = self.names.labels if self.names.labels != LABELS else labeled
        return {**({"labels": labels} if labels else {}), **self.columns}

    def splits(self) -> dict[str, str]:
        """Return file name -> split."""
        splits = {file.name: split_of(file.name.rpartition("/")[2]) for file in self.data_files}
        unknown = [name for name, split in splits.items() if split not in set(Split)]
        if unknown and Split.TRAIN not in splits.values():
            _log.info("%s: read as the train split, because no file is named train", ", ".join(unknown))
            splits |= dict.fromkeys(unknown, Split.TRAIN)
        return splits

    def open(self, scratch: Path) -> Callable[[str], Iterator[pa.RecordBatch]]:
        """Split all records into tables in `scratch`, and return the reader of a table.

        Raises BadInput for a file that cannot be read.
        """
        folder = scratch / "nested"
        folder.mkdir()
        with ExitStack() as stack:
            tables = {table: stack.enter_context(_TableWriter(table, folder)) for table in _IDENTITY}
            splits = self.splits()
            for file in self.data_files:
                for raw in self.records(self.location, file):
                    for part in self._parts(raw, splits[file.name]):
                        tables[part.table].add(raw._replace(content=part.record), part.parsed)
        return partial(_without_repeats, folder)

    def _parts(self, raw: Raw, split: str) -> list[Part]:
        fault = raw.fault
        if fault is None:
            try:
                return list(parts(raw.content, split, self.names))
            except RecursionError:  # parsed, but nested too deeply to serialize
                fault = Fault("malformed_json", "nested too deeply")
        return [Part("queries", raw.content, fault)]


class _TableWriter:
    """Writes the rows of a table to its file."""

    def __init__(self, table: str, folder: Path) -> None:
        self._rows = Rows(table)
        self._writer = pq.ParquetWriter(folder / f"{table}.parquet", SCHEMAS[table], compression="lz4")

    def add(self, raw: Raw, parsed: Values | Fault) -> None:
        self._rows.add(raw, parsed)
        if self._rows.full:
            self._writer.write_batch(self._rows.take())

    def __enter__(self) -> _TableWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._rows.waiting and error is None:
            self._writer.write_batch(self._rows.take())
        self._writer.close()


def _without_repeats(folder: Path, table: str) -> Iterator[pa.RecordBatch]:
    """Stream the rows of a table in order, without repeated rows. All rows with a fault are kept."""
    file = folder / f"{table}.parquet"
    with database(folder) as connection, pq.ParquetFile(file) as parquet:
        connection.execute(
            "CREATE TABLE repeats AS SELECT row FROM (SELECT row, row_number() OVER "
            f"(PARTITION BY {_IDENTITY[table]} ORDER BY row) AS nth "
            f"FROM read_parquet({quoted(file)}) WHERE fault IS NULL) WHERE nth > 1 ORDER BY row"
        )
        for batch in parquet.iter_batches(_BATCH_ROWS):
            rows = batch.column("row")
            ends = [rows[0].as_py(), rows[-1].as_py()]
            repeated = connection.execute("SELECT row FROM repeats WHERE row BETWEEN ? AND ?", ends).fetchall()
            repeats = pa.array([row for (row,) in repeated], pa.int64())
            yield batch.filter(pc.invert(pc.is_in(rows, repeats)))
