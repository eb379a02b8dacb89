"""Collects source rows in Arrow batches: the values or the fault of each row, and its raw record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

Values = tuple[
    str | float | list[str] | list[int] | None, ...
]  # in column order, without provenance; the last may lack


class Fault(NamedTuple):
    """Why a record is not a row: the rule of the reader, the details, and the key of the row if known."""

    rule: str
    detail: str
    key: str | None = None


class Raw(NamedTuple):
    """A record as read from a file, with a fault if the record is invalid before parsing (such as too long)."""

    file: str  # relative to the source
    number: int  # from 1: the line, or the position in the array
    content: bytes
    fault: Fault | None = None


Parse = Callable[[bytes], Values | Fault]

_TEXTS = ("invalid_utf8", "malformed_json", "malformed_row", "missing_field", "repeated_field", "wrong_type")
FAULTS = {  # table -> the rules of the readers
    "passages": (*_TEXTS, "record_too_long"),
    "queries": (*_TEXTS, "record_too_long"),
    "clicks": (*_TEXTS, "bad_positions", "record_too_long"),
    "qrels": ("invalid_utf8", "malformed_row", "bad_score", "record_too_long", "bad_weight"),
    "judgments": ("invalid_utf8", "malformed_json", "missing_field", "repeated_field", "wrong_type", "record_too_long"),
}
READABLE = {  # the rules of the readers, as statements about a record that passes
    "invalid_utf8": "the record is valid UTF-8",
    "malformed_json": "the record is valid JSON",
    "malformed_row": "the record has the form of a row",
    "missing_field": "the record has every required field",
    "repeated_field": "no field of the record occurs twice",
    "wrong_type": "every field of the record has the right type",
    "record_too_long": "the record is within the size limit",
    "bad_score": "the score is a whole number",
    "bad_positions": "each shown passage has a position of its own, from 1",
    "bad_weight": "the weight is above 0 and at most 1",
}

_PROVENANCE = [
    ("row", pa.int64()),  # from 0 over all files of the table, in order; may have gaps
    ("file", pa.string()),
    ("line", pa.int64()),  # from 1: the line, the position in the array, or the row of a columnar file
    ("record", pa.string()),  # the raw record, with \xNN for bytes that are not UTF-8; null if `form` is set
    ("form", pa.string()),  # JSON: field name of the record -> the column here with its value, or null
    ("fault", pa.string()),
    ("fault_detail", pa.string()),
    ("fault_key", pa.string()),
]
_VALUES = {
    "passages": [("passage_id", pa.string()), ("title", pa.string()), ("text", pa.string())],
    "queries": [("query_id", pa.string()), ("text", pa.string())],
    "qrels": [
        ("query_id", pa.string()),
        ("passage_id", pa.string()),
        ("split", pa.string()),
        ("relevance", pa.int32()),
        ("weight", pa.float64()),  # how sure the judgment is, in (0, 1]; null: 1
    ],
    "clicks": [
        ("session", pa.string()),
        ("time", pa.int64()),  # seconds since 1970
        ("query", pa.string()),
        ("shown", pa.list_(pa.string())),  # passage ids
        ("positions", pa.list_(pa.int32())),  # of the shown passages, from 1
        ("clicked", pa.list_(pa.string())),
    ],
    "judgments": [
        (name, pa.string()) for name in ("query", "passage_id", "verdict", "judge", "judged_at", "release", "origin")
    ],
}
COLUMNS = {table: tuple(name for name, _ in values) for table, values in _VALUES.items()}
SCHEMAS = {table: pa.schema([*_PROVENANCE, *values]) for table, values in _VALUES.items()}
_BATCH_ROWS = 8192
_BATCH_BYTES = 8 * 2**20


def batches(table: str, raws: Iterable[Raw], parse: Parse, first_row: int = 0) -> Iterator[pa.RecordBatch]:
    """Parse records into batches of at most 8,192 rows and about 8 MiB of source, numbered from `first_row`."""
    rows = Rows(table, first_row)
    for raw in raws:
        rows.add(raw, raw.fault or parse(raw.content))
        if rows.full:
            yield rows.take()
    if rows.waiting:
        yield rows.take()


class Rows:
    """Collects the rows of one table, column by column, into batches of `SCHEMAS[table]`."""

    def __init__(self, table: str, first_row: int = 0) -> None:
        self._schema = SCHEMAS[table]
        self._nulls: Values = (None,) * len(_VALUES[table])
        self._next = first_row
        self._clear()

    @property
    def waiting(self) -> int:
        """Return the number of rows not taken yet."""
        return len(self._raws)

    @property
    def full(self) -> bool:
        """Return whether the batch must be taken before another row is added."""
        return len(self._raws) >= _BATCH_ROWS or self._size > _BATCH_BYTES

    def add(self, raw: Raw, parsed: Values | Fault) -> None:
        """Add a row: the values of a record, or its fault."""
        if isinstance(parsed, Fault):
            self._faults[len(self._raws)] = parsed
            parsed = self._nulls
        self._raws.append(raw)
        self._values.append(parsed + self._nulls[len(parsed) :])
        self._size += len(raw.content)

    def take(self) -> pa.RecordBatch:
        """Return the rows added since the last batch, and start a new batch."""
        count = len(self._raws)
        columns = [
            pa.array(range(self._next, self._next + count), pa.int64()),
            pa.array([raw.file for raw in self._raws], pa.string()),
            pa.array([raw.number for raw in self._raws], pa.int64()),
            self._records(),
            pa.nulls(count, pa.string()),
            *(pa.array(self._fault_column(part), pa.string()) for part in range(3)),
        ]
        values = zip(*self._values, strict=True)
        fields = list(self._schema)[len(_PROVENANCE) :]
        columns += [pa.array(column, field.type) for column, field in zip(values, fields, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema)
        self._next += count
        self._clear()
        return batch

    def _clear(self) -> None:
        self._raws: list[Raw] = []
        self._values: list[Values] = []
        self._faults: dict[int, Fault] = {}
        self._size = 0

    def _records(self) -> pa.Array:
        """Return the raw records as text. Only records with a fault may be invalid UTF-8; parsed ones were decoded."""
        contents = [raw.content for raw in self._raws]
        for index in self._faults:
            contents[index] = contents[index].decode("utf-8", "backslashreplace").encode()
        return pa.array(contents, pa.binary()).cast(pa.string())

    def _fault_column(self, part: int) -> list[str | None]:
        column: list[str | None] = [None] * len(self._raws)
        for index, fault in self._faults.items():
            column[index] = _writable(fault[part])
        return column


def _writable(text: str | None) -> str | None:
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()
