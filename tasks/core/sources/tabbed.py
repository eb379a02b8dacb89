"""Reads tab-separated files of passages or queries, with or without a header and CSV quoting.

The first MiB of a file determines its format. The files of MS MARCO have no header and no quoting. Files written with a
CSV library wrap texts that contain quotes in quotes, and double the quotes inside.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice

import pyarrow as pa

from tasks.core.sources.column_names import NAMES, read_header
from tasks.core.sources.fields import utf8
from tasks.core.sources.lines import head_lines, lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Fault, Values, batches

_log = logging.getLogger("nightshift.ingest")
_COLUMNS_WITHOUT_HEADER = {"passages": {"passage_id": 0, "text": 1}, "queries": {"query_id": 0, "text": 1}}
_LEAST_QUOTED = 2  # quoted texts that prove CSV quoting


@dataclass(frozen=True)
class Tabbed:
    """A tab-separated file, its header, and its quoting."""

    file: Stored
    table: str
    header: dict[str, int] | None
    quoted: bool

    def read(self, location: Location, first_row: int) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the schema of the table. Raises BadInput for a file that cannot be read."""
        rows = islice(lines(location, self.file), 1 if self.header else 0, None)
        columns = self.header or _COLUMNS_WITHOUT_HEADER[self.table]
        yield from batches(self.table, rows, partial(_row, self.table, columns, self.quoted), first_row)

    def dialect(self) -> dict[str, object]:
        """Return the header and the quoting; empty for a file without both."""
        header = {"header": self.header} if self.header else {}
        return {**header, **({"quoted": True} if self.quoted else {})}


def detect_format(location: Location, file: Stored, table: str) -> Tabbed:
    """Detect whether a file has a header and quoted texts, and log both.

    Raises BadInput for a header that lacks a column, or a file that cannot be read.
    """
    head = [raw.content for raw in head_lines(location, file)]
    header = read_header(table, head[0], location.where(file)) if head else None
    if header:
        _log.info("%s: the first line is a header, not a row", location.where(file))
    at = header["text"] if header else 1
    rows = [line.split(b"\t") for line in (head[1:] if header else head)]
    with_quotes = [fields[at] for fields in rows if len(fields) > at and b'"' in fields[at]]
    wrapped = [text for text in with_quotes if _is_quoted(text)]
    doubled = [text for text in wrapped if b'"' in text[1:-1]]
    quoted = len(wrapped) == len(with_quotes) >= _LEAST_QUOTED and (
        len(doubled) >= _LEAST_QUOTED or len(with_quotes) == len(rows)
    )
    if quoted:
        _log.info('%s: texts are quoted as in CSV: removing quotes, and reading "" as "', location.where(file))
    elif doubled:
        _log.warning(
            '%s: %d of the first %d texts look quoted as in CSV ("… ""…"" …"), the rest do not: no quotes are removed. '
            "If a CSV library wrote the file, write it again without quoting.",
            location.where(file), len(doubled), len(rows),
        )  # fmt: skip
    return Tabbed(file, table, header, quoted)


def _is_quoted(text: bytes) -> bool:
    """Return whether a text is wrapped in quotes, with each inner quote doubled."""
    inside = text[1:-1]
    return len(text) > 1 and text[:1] == text[-1:] == b'"' and inside.count(b'"') == 2 * inside.count(b'""')


def _row(table: str, columns: Mapping[str, int], quoted: bool, content: bytes) -> Values | Fault:
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t")
    if len(fields) != len(columns):
        expected = " and ".join(name.replace("_", " ") for name in columns)
        return Fault("malformed_row", f"{len(fields)} columns where {expected} are expected", fields[0][:512])
    if quoted:
        fields = [_unquoted(field) for field in fields]
    return tuple(fields[columns[name]] if name in columns else "" for name in NAMES[table])


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
