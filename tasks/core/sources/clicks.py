"""Reads a click log: one record for each result page that a user saw, in JSON lines or Parquet.

    clicks.jsonl   {"session": "s1", "time": "2026-11-03T14:00:00Z", "query": "when do owls hunt",
                    "shown": ["p7", "p1", "p3"], "positions": [1, 2, 3], "clicked": ["p1"]}

`shown` lists the passage ids of the page, and `positions` their positions from 1; without `positions`, they are 1, 2, …
in the order of `shown`. `clicked` lists the clicked passages, and is empty if there was no click. `time` is a number of
seconds since 1970, or a text in ISO 8601; without a time zone it is UTC. The files are called `clicks…`, and are plain,
.gz, or .zst; a source may also be a single file of any name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from math import isfinite
from typing import Any

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.sources.combined import CLICKS
from tasks.core.sources.fields import has_lone_surrogate, json_object
from tasks.core.sources.lines import lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.parquet import opened
from tasks.core.sources.rows import Fault, Raw, Rows, Values

_FIELDS = ("session", "time", "query", "shown", "positions", "clicked")
_MOST_POSITIONS = 10_000  # of a result page


@dataclass(frozen=True)
class ClickFiles:
    """The files of a click log."""

    location: Location
    logs: list[Stored]

    def files(self) -> list[Stored]:
        """Return all files, ordered by name."""
        return self.logs

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream the result pages in the schema `rows.SCHEMAS["clicks"]`; the other tables are empty.

        Raises BadInput for a file that cannot be read to its end.
        """
        if table != CLICKS:
            return
        rows = Rows(CLICKS)
        for file in self.logs:
            for raw in _parquet_records(self.location, file) if _is_parquet(file) else lines(self.location, file):
                rows.add(raw, raw.fault or _page(raw.content))
                if rows.full:
                    yield rows.take()
        if rows.waiting:
            yield rows.take()


def locate(location: Location) -> ClickFiles:
    """Find the files of a click log. Raises BadInput when there is none."""
    files = location.files()
    if not location.single:
        files = [
            file
            for file in files
            if file.name.lower().startswith("clicks") and (_is_parquet(file) or file.bare.endswith(".jsonl"))
        ]
    if not files:
        raise BadInput(f"{location.shown}: contains no click log. Name its files clicks….jsonl or clicks….parquet.")
    location.refuse_duplicates(files)
    return ClickFiles(location, files)


def _is_parquet(file: Stored) -> bool:
    return file.name.endswith(".parquet")


def _parquet_records(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the rows of a Parquet file as JSON records. Raises BadInput when a column is missing."""
    done = 0
    with location.reading(file, lambda: f" past row {done}"), opened(location, file) as (schema, batches):
        if missing := [name for name in _FIELDS if name not in schema.names and name != "positions"]:
            raise BadInput(
                f"{location.where(file)}: has no column {missing[0]}, only {', '.join(schema.names)}. Rename a column."
            )
        columns = [name for name in _FIELDS if name in schema.names]
        for batch in batches:
            for row in batch.select(columns).to_pylist():
                done += 1
                yield Raw(file.name, done, json.dumps(row, ensure_ascii=False, default=_text_of).encode())


def _text_of(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)


def _page(content: bytes) -> Values | Fault:
    record = json_object(content, _FIELDS)
    if isinstance(record, Fault):
        return record
    for name in _FIELDS:
        if name not in record and name != "positions":
            return Fault("missing_field", f"no field {name}")
    session, query = record["session"], record["query"]
    if not isinstance(query, str) or isinstance(session, bool) or not isinstance(session, str | int):
        return Fault("wrong_type", "query must be text, and session a text or a whole number")
    shown, clicked = _ids(record["shown"]), _ids(record["clicked"])
    time = _seconds(record["time"])
    if shown is None or clicked is None or time is None:
        name = "shown" if shown is None else "clicked" if clicked is None else "time"
        expected = "a time" if name == "time" else "a list of passage ids"
        return Fault("wrong_type", f"{name} is not {expected}: {str(record[name])[:60]!r}", str(session))
    if has_lone_surrogate([str(session), query, *shown, *clicked]):
        return Fault("invalid_utf8", "half of a surrogate pair is not a character")
    positions = _positions(record, len(shown))
    if positions is None:
        return Fault("bad_positions", "positions must be different whole numbers from 1, one for each shown passage")
    return str(session), time, query, shown, positions, clicked


def _ids(value: Any) -> list[str] | None:
    """Return passage ids as text; None if the value is no list of texts and whole numbers."""
    if not isinstance(value, list) or any(isinstance(key, bool) or not isinstance(key, str | int) for key in value):
        return None
    return [str(key) for key in value]


def _positions(record: Mapping[str, Any], count: int) -> list[int] | None:
    given = record.get("positions")
    positions = list(range(1, count + 1)) if given is None else given
    if not isinstance(positions, list) or len(positions) != count:
        return None
    whole = all(type(position) is int and 1 <= position <= _MOST_POSITIONS for position in positions)
    return positions if whole and len(set(positions)) == count else None


def _seconds(value: Any) -> int | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return int(value) if isfinite(value) and abs(value) < 2**53 else None
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
    except ValueError:
        return None
    return int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
