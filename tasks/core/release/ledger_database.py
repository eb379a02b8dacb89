"""Where a ledger's tables lie: a SQLite file for one host; `postgres.py` has them in PostgreSQL, for several."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from tasks.core.base.errors import NightshiftError, StaleNight, describe
from tasks.core.release.damage import set_aside

log = logging.getLogger("nightshift.release")

FILE = "ledger.sqlite"
BOUND = "ledger.id"  # the file of a home whose ledger lies in PostgreSQL: what it calls this home
BUSY_SECONDS = 60  # how long to wait for another process's transaction; ours take milliseconds to seconds
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
    """A connection to the tables of one home's ledger; values stand for `?` in a statement."""

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement that SQLite and PostgreSQL both understand; its rows."""

    def exclusive(self) -> AbstractContextManager[None]:
        """A transaction that keeps every other writer out, and is undone when an error leaves it.

        Raises NightshiftError when another one lasts for `BUSY_SECONDS`, StaleNight when the tables are no longer
        those that were opened.
        """

    def held(self, home: Path, name: str) -> AbstractContextManager[bool]:
        """Hold a name; false when another process does. It is free again when its process ends, however it ends."""

    def close(self) -> None:
        """Close the connection."""


class Sqlite:
    """A `Database` in a file below home. Locks on files keep out processes of this host.

    A damaged file is set aside, and an empty one begun: `recovery.recover` enters what collections and manifests tell.

    Raises NightshiftError for a home whose ledger lies elsewhere or cannot be opened, and while another process holds
    its write lock.
    """

    def __init__(self, home: Path) -> None:
        if (home / BOUND).exists():
            raise NightshiftError(
                f"{home}: its ledger lies in PostgreSQL, and [release] ledger does not say where. "
                f"To go back to SQLite on every host, remove {home / BOUND}."
            )
        self._path = home / FILE
        try:
            self._connection = _connected(self._path)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):  # SQLite does not name the file
                raise NightshiftError(f"{self._path}: {describe(error)}") from error
            self._connection = _replaced(home)
        self._inode = self._path.stat().st_ino

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; see `Database.execute`."""
        return self._connection.execute(statement, values).fetchall()

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold SQLite's one write lock; see `Database.exclusive`."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise NightshiftError(
                f"{self._path}: {error} for {BUSY_SECONDS} s. "
                "Another publish or rollback holds it; try again when that has ended."
            ) from error
        try:
            self._check_in_place()
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _check_in_place(self) -> None:
        """A ledger that was removed meanwhile keeps nobody out: others have made a new one."""
        if not self._path.exists() or self._path.stat().st_ino != self._inode:
            raise StaleNight(f"{self._path}: was removed or replaced while this was under way; run the night again")

    @contextmanager
    def held(self, home: Path, name: str) -> Iterator[bool]:
        """Hold the lock on a file; see `Database.held`."""
        try:
            with FileLock(lock_of(home, name), timeout=0):
                yield True
        except Timeout:
            yield False

    def close(self) -> None:
        """Close the file."""
        self._connection.close()


def _connected(path: Path) -> sqlite3.Connection:
    """A connection to a file whose pages, tables and records are whole; raises sqlite3.DatabaseError otherwise."""
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
    """Read everything: a ledger has one row for each release, generation and move."""
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
    """Whether the file's content is at fault, rather than a lock, the disk, or permissions."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
    return code in (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _replaced(home: Path) -> sqlite3.Connection:
    """Set a damaged ledger aside and begin an empty one, unless another process has just done so."""
    path = home / FILE
    with FileLock(lock_of(home, "ledger")):
        try:
            return _connected(path)
        except sqlite3.DatabaseError as error:
            for file in (path, *(path.with_name(f"{FILE}-{kind}") for kind in ("wal", "shm"))):
                set_aside(file, f"{file}: the ledger is damaged ({error})")
            log.warning("%s: made again from collections and release manifests", path)
            return _connected(path)


def lock_of(home: Path, name: str) -> Path:
    """The file that is locked to hold a name; it stays, and so tells a lost ledger which names were given."""
    file = home / "locks" / f"{name}.lock"
    file.parent.mkdir(parents=True, exist_ok=True)
    return file
