"""Errors for the user. Each message names the thing, the reason, and the next step."""

from __future__ import annotations

import errno
from pathlib import Path

NO_RELEASE = "no release yet. `nightshift run` makes the first."


class NightshiftError(Exception):
    """A night cannot continue. The message gives the reason and the next step, and is shown without a traceback."""


class BadUsage(NightshiftError):
    """A setting, an option, or a query is invalid; the command exits with status 2."""


class BadInput(NightshiftError):
    """The source data is unusable even after quarantine (a missing file, an empty corpus, no training pair)."""

    refused: Path | None = None  # folder with the quarantined rows and the contracts page, if rows were read


class Mismatch(NightshiftError):
    """Two things that must match do not, such as an encoder and a collection, or a shard and its manifest."""


class Damaged(Mismatch):
    """A stored file was altered, truncated, or removed."""


class StaleNight(NightshiftError):
    """Another release went live after this night began; the pointer was not moved."""


class Unreachable(NightshiftError, ConnectionError):
    """A server did not respond; a retry after a minute may succeed."""


class Impossible(NightshiftError):
    """A valid request cannot be fulfilled by the current data or release; a retry does not help."""


_NEXT_STEP = {
    errno.EACCES: "Give this user read and write permission, or set home (NIGHTSHIFT_HOME) to another folder.",
    errno.EROFS: "Set home (NIGHTSHIFT_HOME) to a writable folder.",
    errno.ENOSPC: "Free space on that disk, or set home (NIGHTSHIFT_HOME) to a larger one.",
    errno.ENOENT: "Check the path.",
    errno.ENOTDIR: "Check the path: one of its parent folders is a file.",
    errno.EISDIR: "Give a file, not a folder.",
    errno.ENAMETOOLONG: "Choose a shorter path.",
    errno.EMFILE: "Raise the limit of open files with ulimit -n.",
    errno.EIO: "The disk or network file system failed: check the system log.",
}
_NEXT_STEP[errno.EPERM] = _NEXT_STEP[errno.EACCES]
_NEXT_STEP[errno.EDQUOT] = _NEXT_STEP[errno.ENOSPC]


# SQLite, DuckDB, and Arrow report the same faults with their own error types, without errno.
_REASONS = {
    "no space left": errno.ENOSPC,
    "disk is full": errno.ENOSPC,
    "permission denied": errno.EACCES,
    "readonly database": errno.EACCES,
    "unable to open database file": errno.EACCES,
    "read-only file system": errno.EROFS,
}


def describe(error: BaseException) -> str:
    """Return the text of `explain`, or the type and message of an error that it does not know."""
    return explain(error) or f"{type(error).__name__}: {error}"


def explain(error: BaseException) -> str | None:
    """Return a message for the user: that of a NightshiftError, or file, reason, and next step of a system error.

    Returns:
        None for any other error.
    """
    if isinstance(error, NightshiftError):
        return str(error)
    if isinstance(error, OSError) and error.errno in _NEXT_STEP:
        file = f"{error.filename}: " if error.filename else ""
        return f"{file}{(error.strerror or str(error)).lower()}. {_NEXT_STEP[error.errno]}"
    number = next((number for reason, number in _REASONS.items() if reason in str(error).lower()), None)
    return None if number is None else f"{error}. {_NEXT_STEP[number]}"
