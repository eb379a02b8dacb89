"""Reads sources whose records hold a query together with its passages, and makes the three tables of them.

A record is read once; what is in it goes into three files aside. There a passage that many records repeat, word
for word and under the same id, is one row: the first. Where an id is missing, a digest of the text stands for it.
A record that cannot be read at all is a row of the queries; one whose query cannot be read keeps its passages.
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
from tasks.core.sources.examples import LABELS, Names, Part, parts
from tasks.core.sources.lines import head_of
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import SCHEMAS, Fault, Raw, Rows, Values
from tasks.core.sources.split_names import SPLITS, split_of

_log = logging.getLogger("nightshift.ingest")
_SAME = {  # rows of equal values are one row; texts are compared by digest, which keeps the comparison small
    "passages": "passage_id, title, md5(text)",
    "queries": "query_id, md5(text)",
    "qrels": "query_id, passage_id, split, relevance",
}
_BATCH_ROWS = 8192


@dataclass(frozen=True)
class NestedSource:
    """Files of records, each file of the split that its name gives; several may be of one split.

    Where no file is called train, those whose names give no known split are the train split.
    """

    place: Location
    found: list[Stored]
    records: Callable[[Location, Stored], Iterator[Raw]]
    names: Names
    columns: Mapping[str, str] = field(default_factory=dict)  # chosen by the user: query, passage

    def files(self) -> list[Stored]:
        """All of them, by name."""
        return self.found

    def dialect(self) -> Mapping[str, object]:
        """Whether records are labeled, and the columns that the user chose; empty without both."""
        fields = [f'"{name}"'.encode() for name in LABELS]
        labeled = any(name in head_of(self.place, file) for file in self.found for name in fields)
        return {**({"labels": True} if labeled else {}), **self.columns}

    def splits(self) -> dict[str, str]:
        """The split of each file, by its name."""
        splits = {file.name: split_of(file.name.rpartition("/")[2]) for file in self.found}
        unknown = [name for name, split in splits.items() if split not in SPLITS]
        if unknown and "train" not in splits.values():
            _log.info("%s: no file is called train, so it is read as the train split", ", ".join(unknown))
            splits |= dict.fromkeys(unknown, "train")
        return splits

    def open(self, scratch: Path) -> Callable[[str], Iterator[pa.RecordBatch]]:
        """Take all records apart into `scratch`, and return the reader of a table.

        Raises BadInput for a file that cannot be read.
        """
        folder = scratch / "nested"
        folder.mkdir()
        with ExitStack() as stack:
            tables = {table: stack.enter_context(_Table(table, folder)) for table in _SAME}
            splits = self.splits()
            for file in self.found:
                for raw in self.records(self.place, file):
                    for part in self._parts(raw, splits[file.name]):
                        tables[part.table].add(raw._replace(content=part.record), part.parsed)
        return partial(_without_repeats, folder)

    def _parts(self, raw: Raw, split: str) -> list[Part]:
        fault = raw.fault
        if fault is None:
            try:
                return list(parts(raw.content, split, self.names))
            except RecursionError:  # read, but too deep to be written down again
                fault = Fault("malformed_json", "nested too deep")
        return [Part("queries", raw.content, fault)]


class _Table:
    """One table on its way into its file."""

    def __init__(self, table: str, folder: Path) -> None:
        self._rows = Rows(table)
        self._writer = pq.ParquetWriter(folder / f"{table}.parquet", SCHEMAS[table], compression="lz4")

    def add(self, raw: Raw, parsed: Values | Fault) -> None:
        self._rows.add(raw, parsed)
        if self._rows.full:
            self._writer.write_batch(self._rows.take())

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._rows.waiting and error is None:
            self._writer.write_batch(self._rows.take())
        self._writer.close()


def _without_repeats(folder: Path, table: str) -> Iterator[pa.RecordBatch]:
    """The rows of a table in their order, each once. Rows with a fault all stay."""
    file = folder / f"{table}.parquet"
    with database(folder) as connection, pq.ParquetFile(file) as parquet:
        connection.execute(
            "CREATE TABLE repeats AS SELECT row FROM (SELECT row, row_number() OVER "
            f"(PARTITION BY {_SAME[table]} ORDER BY row) AS nth FROM read_parquet({quoted(file)}) WHERE fault IS NULL) "
            "WHERE nth > 1 ORDER BY row"
        )
        for batch in parquet.iter_batches(_BATCH_ROWS):
            rows = batch.column("row")
            ends = [rows[0].as_py(), rows[-1].as_py()]
            found = connection.execute("SELECT row FROM repeats WHERE row BETWEEN ? AND ?", ends).fetchall()
            repeats = pa.array([row for (row,) in found], pa.int64())
            yield batch.filter(pc.invert(pc.is_in(rows, repeats)))
