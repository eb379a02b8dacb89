"""Source rows as Arrow batches: their values, or the fault that kept them from being read, and the raw record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import pyarrow as pa

Values = Mapping[str, str | int | None]


class Fault(NamedTuple):
    """Why a line could not be read as a row: the reader's rule, the details, and the row's key if it is known."""

    rule: str
    detail: str
    key: str | None = None


Parse = Callable[[bytes], Values | Fault]

FAULTS = {  # table -> the reader's rules
    "passages": ("invalid_utf8", "malformed_json", "wrong_type", "missing_field"),
    "queries": ("invalid_utf8", "malformed_json", "wrong_type", "missing_field"),
    "qrels": ("invalid_utf8", "malformed_row", "bad_score"),
}

_PROVENANCE = [
    ("row", pa.int64()),  # from 0 over all files of the table
    ("file", pa.string()),
    ("line", pa.int64()),  # from 1
    ("record", pa.string()),  # the raw line; bytes that are not UTF-8 as \xNN
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
    ],
}
SCHEMAS = {table: pa.schema([*_PROVENANCE, *values]) for table, values in _VALUES.items()}
_BATCH_ROWS = 8192
_BATCH_BYTES = 32 * 2**20


def batches(
    table: str, lines: Iterable[tuple[str, int, bytes]], parse: Parse, first_row: int = 0
) -> Iterator[pa.RecordBatch]:
    """Parse (file, line number, bytes) triples into batches of at most 8,192 rows and about 32 MiB of source.

    Rows are numbered from `first_row`.
    """
    rows: list[dict[str, Any]] = []
    size = 0
    for row, (file, line, content) in enumerate(lines, start=first_row):
        rows.append(_row(row, file, line, content, parse(content)))
        size += len(content)
        if len(rows) == _BATCH_ROWS or size > _BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[table])
            rows, size = [], 0
    if rows:
        yield pa.RecordBatch.from_pylist(rows, schema=SCHEMAS[table])


def _row(row: int, file: str, line: int, content: bytes, parsed: Values | Fault) -> dict[str, Any]:
    record = content.decode("utf-8", "backslashreplace")
    start = {"row": row, "file": file, "line": line, "record": record}
    if isinstance(parsed, Fault):
        return {**start, "fault": parsed.rule, "fault_detail": parsed.detail, "fault_key": _writable(parsed.key)}
    return {**start, **parsed}


def _writable(key: str | None) -> str | None:
    return None if key is None else key.encode("utf-8", "backslashreplace").decode()
