"""Storage of the ledger's tables: a SQLite file for one host. `ledger_postgres.py` stores them for several hosts."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import NightshiftError, StaleNight, describe

log = logging.getLogger("nightshift.release")

FILE = "ledger.sqlite"
BOUND = "ledger.id"  # identifies this home in PostgreSQL; the file exists only if the ledger is there
BUSY_SECONDS = 60  # wait for another process's transaction; ours take milliseconds to seconds
TABLES = """
CREATE TABLE IF NOT EXISTS generations (
    number INTEGER PRIMARY KEY, digest TEXT NOT NULL, verified TEXT, dropped TEXT
);
CREATE TABLE IF NOT EXISTS releases (
    generation INTEGER PRIMARY KEY REFERENCES generations, release TEXT NOT NULL UNIQUE, record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS moves (
    epoch BIGINT PRIMARY KEY, release TEXT NOT NULL, at TEXT NOT NULL, why TEXT NOT NULL
)
"""


CONTENT = (
    "SELECT number, digest, verified, dropped FROM generations",
    "SELECT generation, release, record FROM releases",
    "SELECT epoch, release, at, why FROM moves",
)


class Database(Protocol):
    """A connection to the tables of one home's ledger. `?` in a statement is a placeholder for a value."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement that both SQLite and PostgreSQL accept; return its rows."""

    def exclusive(self) -> AbstractContextManager[None]:
        """Start a transaction that blocks all other writers, and rolls back on an error.

        Raises NightshiftError when another transaction lasts longer than `BUSY_SECONDS`, StaleNight when the tables
        were replaced after they were opened.
        """

    def lock_name(self, home: Path, name: str) -> AbstractContextManager[bool]:
        """Lock a name; yield false if another process holds the lock. The lock ends with its process."""

    def close(self) -> None:
        """Close the connection."""


class Sqlite:
    """A `Database` in a file below home. File locks exclude other processes of this host.

    A damaged file is set aside and replaced by an empty one, which `recovery.recover` fills from collections and
    manifests.

    Raises NightshiftError when the ledger is in PostgreSQL, cannot be opened, or is locked by another process.
    """

    def __init__(self, home: Path) -> None:
        if (home / BOUND).exists():
            raise NightshiftError(
                f"{home}: its ledger is in PostgreSQL; set [release] ledger to its address. "
                f"To return to SQLite on every host, remove {home / BOUND}."
            )
        self._path = home / FILE
        try:
            self._connection = _connect(self._path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):  # SQLite does not name the file
                raise NightshiftError(f"{self._path}: {describe(error)}") from error
            self._connection = _replace_damaged(home)
        self._inode = self._path.stat().st_ino

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; see `Database.execute`."""
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold SQLite's write lock; see `Database.exclusive`."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise NightshiftError(
                f"{self._path}: {error} for {BUSY_SECONDS} s. "
                "Another publish or rollback holds it; try again when that has finished."
            ) from error
        try:
            self._check_in_place()
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _check_in_place(self) -> None:
        """Refuse a ledger file that was replaced: locking it would not exclude users of the new file."""
        if not self._path.exists() or self._path.stat().st_ino != self._inode:
            raise StaleNight(f"{self._path}: was removed or replaced during this operation; run the night again")

    @contextmanager
    def lock_name(self, home: Path, name: str) -> Iterator[bool]:
        """Lock a file; see `Database.lock_name`."""
        try:
            with FileLock(lock_file(home, name), timeout=0):
                yield True
        except Timeout:
            yield False

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file and check its pages, tables, and records. Raises sqlite3.DatabaseError when it is damaged."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        _check_content(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _check_content(connection: sqlite3.Connection) -> None:
    """Read the whole ledger. It is small: one row for each release, generation, and move."""
    ((fault,),) = connection.execute("PRAGMA quick_check(1)")
    if fault != "ok":
        raise sqlite3.DatabaseError(fault)
    _, releases, _ = (connection.execute(statement).fetchall() for statement in CONTENT)
    for _, release, record in releases:
        try:
            json.loads(record)
        except ValueError as error:
            raise sqlite3.DatabaseError(f"the record of release {release} is not JSON") from error


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    """Return whether the file's content is the cause, rather than a lock, the disk, or permissions."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _replace_damaged(home: Path) -> sqlite3.Connection:
    """Set a damaged ledger aside and create an empty one, unless another process has just done so."""
    path = home / FILE
    with FileLock(lock_file(home, "ledger")):
        try:
            return _connect(path)
        except sqlite3.DatabaseError as error:
            for file in (path, *(path.with_name(f"{FILE}-{kind}") for kind in ("wal", "shm"))):
                set_aside(file, f"{file}: the ledger is damaged ({error})")
            log.warning("%s: rebuilding the ledger from collections and release manifests", path)
            return _connect(path)


def lock_file(home: Path, name: str) -> Path:
    """Return the lock file of a name. Lock files are never removed; they show a rebuilt ledger the used names."""
    file = home / "locks" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
