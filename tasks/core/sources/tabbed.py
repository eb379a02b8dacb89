"""Reads tab-separated files of passages or queries, with or without a header, quoted as CSV or not.

What a file is like is decided by its first 1 MiB. MS MARCO's files have neither header nor quoting. Others write them
with a CSV library: then a text that holds a quote is wrapped in quotes, and the quotes inside are doubled.
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
_PLAIN = {"passages": {"passage_id": 0, "text": 1}, "queries": {"query_id": 0, "text": 1}}  # without a header
_FEWEST = 2  # texts that show how a file is quoted


@dataclass(frozen=True)
class Tabbed:
    """One file, and how its lines are to be read."""

    file: Stored
    table: str
    header: dict[str, int] | None
    quoted: bool

    def read(self, place: Location, first_row: int) -> Iterator[pa.RecordBatch]:
        """Stream the rows in the schema of the table. Raises BadInput for a file that cannot be read."""
        rows = islice(lines(place, self.file), 1 if self.header else 0, None)
        places = self.header or _PLAIN[self.table]
        yield from batches(self.table, rows, partial(_row, self.table, places, self.quoted), first_row)

    def dialect(self) -> dict[str, object]:
        """What a header and quotes change; empty for a file without both."""
        header = {"header": self.header} if self.header else {}
        return {**header, **({"quoted": True} if self.quoted else {})}


def look_into(place: Location, file: Stored, table: str) -> Tabbed:
    """Find out whether a file has a header and quoted texts, and log both.

    Raises BadInput for a header that lacks a column, or a file that cannot be read.
    """
    head = [raw.content for raw in head_lines(place, file)]
    header = read_header(table, head[0], place.where(file)) if head else None
    if header:
        _log.info("%s: the first line is a header, not a row", place.where(file))
    at = header["text"] if header else 1
    rows = [line.split(b"\t") for line in (head[1:] if header else head)]
    with_quotes = [fields[at] for fields in rows if len(fields) > at and b'"' in fields[at]]
    wrapped = [text for text in with_quotes if _is_quoted(text)]
    doubled = [text for text in wrapped if b'"' in text[1:-1]]
    quoted = len(wrapped) == len(with_quotes) >= _FEWEST and (len(doubled) >= _FEWEST or len(with_quotes) == len(rows))
    if quoted:
        _log.info('%s: texts are quoted as in CSV; quotes are removed, and "" is read as "', place.where(file))
    elif doubled:
        _log.warning(
            '%s: %d of the first %d texts look quoted as in CSV ("… ""…"" …"), others are not; all stay as they are. '
            "If a CSV library wrote the file, write it again without quoting.",
            place.where(file), len(doubled), len(rows),
        )  # fmt: skip
    return Tabbed(file, table, header, quoted)


def _is_quoted(text: bytes) -> bool:
    """Whether a text is wrapped in quotes, with each quote inside doubled."""
    inside = text[1:-1]
    return len(text) > 1 and text[:1] == text[-1:] == b'"' and inside.count(b'"') == 2 * inside.count(b'""')


def _row(table: str, places: Mapping[str, int], quoted: bool, content: bytes) -> Values | Fault:
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t")
    if len(fields) != len(places):
        expected = " and ".join(name.replace("_", " ") for name in places)
        return Fault("malformed_row", f"{len(fields)} columns where {expected} are expected", fields[0][:512])
    if quoted:
        fields = [_unquoted(field) for field in fields]
    return tuple(fields[places[name]] if name in places else "" for name in NAMES[table])


def _unquoted(text: str) -> str:
    return text[1:-1].replace('""', '"') if len(text) > 1 and text[0] == text[-1] == '"' else text
