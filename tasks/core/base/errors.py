"""The errors a person is meant to read. Each names the thing, the reason and the next step."""

from __future__ import annotations

import errno
from pathlib import Path


class NightshiftError(Exception):
    """A night cannot go on, and the message says why and what to do; shown without a traceback."""


class BadUsage(NightshiftError):
    """A setting, an option, or a query that cannot be used as given; the command exits with 2."""


class BadInput(NightshiftError):
    """The source data broke a rule that no quarantine can fix (a missing file, an empty corpus, no training pair)."""

    refused: Path | None = None  # folder with the refused rows and the page of contracts, when rows were read


class Mismatch(NightshiftError):
    """Two things that must belong together do not: an encoder and a collection, a shard and its manifest."""


class Damaged(Mismatch):
    """Stored bytes are not the ones that were written: a file was altered, truncated, or removed."""


class StaleNight(NightshiftError):
    """Another release went live after this night began; the pointer was left alone."""


class Unreachable(NightshiftError, ConnectionError):
    """A server did not answer; trying again in a minute may help."""


class Impossible(NightshiftError):
    """What is asked for is well said, but what there is cannot do it; asking again will not help."""


_NEXT_STEP = {
    errno.EACCES: "Give this user the right to read and write it, or set home (NIGHTSHIFT_HOME) to another folder.",
    errno.EROFS: "Set home (NIGHTSHIFT_HOME) to a folder that can be written.",
    errno.ENOSPC: "Free space on that disk, or set home (NIGHTSHIFT_HOME) to a larger one.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: a part of it is a file.",
    errno.EISDIR: "Give a file, not a folder.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
    errno.EMFILE: "Raise the limit of open files: ulimit -n.",
    errno.EIO: "The disk or network file system failed: look at the system's log.",
}
_NEXT_STEP[errno.EPERM] = _NEXT_STEP[errno.EACCES]
_NEXT_STEP[errno.EDQUOT] = _NEXT_STEP[errno.ENOSPC]


_REASONS = {  # SQLite, DuckDB and Arrow have error types of their own for the same faults
    "no space left": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "permission denied": errno.EACCES,
    "readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "read-only file system": errno.EROFS,
}


def describe(error: BaseException) -> str:
    """Return an error in words, or its type and message where `explain` knows none."""
    return explain(error) or f"{type(error).__name__}: {error}"


def explain(error: BaseException) -> str | None:
    """Return our own errors' message; file, reason and next step of the system's faults; None for anything else."""
    if isinstance(error, NightshiftError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _NEXT_STEP:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{(error.strerror or str(error)).lower()}. {_NEXT_STEP[error.errno]}"
    number = next((number for reason, number in _REASONS.items() if reason in str(error).lower()), None)
    return None if number is None else f"{error}. {_NEXT_STEP[number]}"
