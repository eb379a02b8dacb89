"""The logs of votes and judgments in a home: one JSON line per record, durable before a writer acknowledges it.

Writers of any number of processes take turns with a lock file. Each removes what a killed writer left of a last line,
appends whole lines, and syncs the file. So an acknowledged record survives a crash, and a torn line never becomes part
of another record. Readers need no lock: they ignore a last line without a line feed.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path

from filelock import Timeout
from pydantic import BaseModel, ConfigDict

from tasks.core.base.atomic_files import exclusive, sync_folder
from tasks.core.base.errors import NightshiftError, describe

FOLDER = "feedback"  # in the home
BLOCK = 2**16  # bytes read at once to find the end of the last line
LOCK_SECONDS = 10.0


class Origin(StrEnum):
    """Where records come from."""

    JUDGE = "judge"
    FEEDBACK = "feedback"


FILES = {Origin.JUDGE: "judgments.jsonl", Origin.FEEDBACK: "votes.jsonl"}  # the first outranks the second


class Verdict(StrEnum):
    """The verdict of a record about a passage and a query."""

    RELEVANT = "relevant"
    ANSWERS = "answers"  # relevant, and answers the query
    NOT_RELEVANT = "not_relevant"
    WITHDRAWN = "withdrawn"  # takes an earlier verdict back


class Record(BaseModel):
    """A vote or a judgment."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    query: str
    passage_id: str
    verdict: Verdict
    judge: str  # name of a person, or pseudonym of a visitor
    judged_at: str  # UTC, ISO 8601
    release: str = ""  # the release that returned the passage


class LogFull(NightshiftError):
    """The log has its largest size; nothing was written."""


def now() -> str:
    """Return the current time for `Record.judged_at`."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def log_file(home: Path, origin: Origin) -> Path:
    """Return the path of the log of an origin."""
    return home / FOLDER / FILES[origin]


def append_records(home: Path, origin: Origin, records: Sequence[Record], most_bytes: int | None = None) -> None:
    """Append records durably. If this raises, none of them is in the log.

    Args:
        home: folder of the logs.
        origin: which log.
        records: what to append.
        most_bytes: largest size of the log; None: no limit.

    Raises:
        LogFull: the log would grow beyond `most_bytes`.
        NightshiftError: the log cannot be written.
    """
    file = log_file(home, origin)
    lines = "".join(record.model_dump_json() + "\n" for record in records).encode()
    try:
        with exclusive(file.with_suffix(".lock"), timeout=LOCK_SECONDS):
            _append(file, lines, most_bytes)
    except (OSError, Timeout) as error:
        raise NightshiftError(f"{file}: nothing was recorded: {describe(error)}") from error


def _append(file: Path, lines: bytes, most_bytes: int | None) -> None:
    new = not file.exists()
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        size = os.fstat(handle).st_size
        end = _end_of_last_line(handle, size)
        if most_bytes is not None and end + len(lines) > most_bytes:
            raise LogFull(f"{file}: the log is full ([feedback] megabytes); nothing was recorded. Raise the limit")
        if end < size:
            os.ftruncate(handle, end)  # what a killed writer left; it acknowledged nothing of it
        try:
            _write_all(handle, lines, end)
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, end)
            raise
    finally:
        os.close(handle)
    if new:
        sync_folder(file.parent)
        sync_folder(file.parent.parent)


def _end_of_last_line(handle: int, size: int) -> int:
    """Return the offset behind the last line feed."""
    end = size
    while end:
        start = max(0, end - BLOCK)
        at = os.pread(handle, end - start, start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0


def _write_all(handle: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(handle, content, offset)
        content, offset = content[written:], offset + written
