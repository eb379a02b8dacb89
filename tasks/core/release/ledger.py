"""The ledger: generations, releases and every move of the pointer, in SQLite. The pointer is truth, this is history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

from tasks.core.errors import NightshiftError, StaleNight
from tasks.core.receipts import Release
from tasks.core.settings import Settings

FILE = "ledger.sqlite"
BUSY_SECONDS = 60  # how long to wait for another process's transaction; ours take milliseconds to seconds
TABLES = """
CREATE TABLE IF NOT EXISTS generations (
    number INTEGER PRIMARY KEY AUTOINCREMENT, digest TEXT NOT NULL, verified TEXT, dropped TEXT
);
CREATE TABLE IF NOT EXISTS releases (
    generation INTEGER PRIMARY KEY REFERENCES generations, release TEXT NOT NULL UNIQUE, record TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS moves (
    epoch INTEGER PRIMARY KEY, release TEXT NOT NULL, at TEXT NOT NULL, why TEXT NOT NULL
);
"""


class Move(NamedTuple):
    """One move of the pointer. `why` is publish, rollback, mended or rebuilt."""

    epoch: int
    release: str
    at: str
    why: str


class Generation(NamedTuple):
    """One try at building a collection; `digest` names what it is made of."""

    number: int
    digest: str
    verified: bool
    dropped: bool
    released: bool
    family: str = "nightshift"  # what the names of this home's collections begin with

    @property
    def release(self) -> str:
        """The name of the release that it is, or would be."""
        return f"r{self.number:04d}-{self.digest[:8]}"

    @property
    def collection(self) -> str:
        """The name of its collection: letters, digits and underscores, as Milvus wants."""
        return f"{self.family}_{self.release.replace('-', '_')}"

    @classmethod
    def of(cls, collection: str) -> Generation:
        """The generation that a collection's name tells of; of its digest only the first 8 digits are known."""
        family, number, digest = collection.rsplit("_", 2)
        return cls(int(number[1:]), digest, verified=False, dropped=False, released=False, family=family)


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger of the home that `settings` name, made on first use."""
    home = settings.home
    home.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(home / FILE, timeout=BUSY_SECONDS, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        yield Ledger(home, connection, settings.milvus.alias)


class Ledger:
    """An open ledger. Every change belongs into a `with ledger.exclusive():`."""

    def __init__(self, home: Path, connection: sqlite3.Connection, family: str) -> None:
        self.home, self._family = home, family
        self._connection, self._file = connection, (home / FILE).stat().st_ino

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Keep every other writer out, in this process and others; undo what was written when an error leaves."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            raise NightshiftError(
                f"{self.home / FILE}: {error} for {BUSY_SECONDS} s. "
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
        file = self.home / FILE
        if not file.exists() or file.stat().st_ino != self._file:
            raise StaleNight(f"{file}: was removed or replaced while this was under way; run the night again")

    def allocate(self, digest: str) -> Generation:
        """A new generation; its number is larger than any before it and never given again."""
        number = self._connection.execute("INSERT INTO generations (digest) VALUES (?)", (digest,)).lastrowid
        assert number is not None
        return Generation(number, digest, verified=False, dropped=False, released=False, family=self._family)

    def adopt(self, generation: Generation) -> None:
        """Enter a generation that is there, though this ledger never gave its number; it counts as unfinished."""
        self._connection.execute(
            "INSERT OR IGNORE INTO generations (number, digest) VALUES (?, ?)", (generation.number, generation.digest)
        )

    def mark_verified(self, number: int) -> None:
        """Note that the collection of a generation is whole."""
        self._connection.execute("UPDATE generations SET verified = ? WHERE number = ?", (_now(), number))

    def mark_dropped(self, number: int) -> None:
        """Note that the collection of a generation is gone, or about to be."""
        self._connection.execute("UPDATE generations SET dropped = ? WHERE number = ?", (_now(), number))

    def generations(self) -> list[Generation]:
        """All generations, newest first."""
        rows = self._connection.execute(
            "SELECT number, digest, verified IS NOT NULL, dropped IS NOT NULL, release IS NOT NULL"
            " FROM generations LEFT JOIN releases ON generation = number ORDER BY number DESC"
        )
        return [Generation(n, digest, bool(v), bool(d), bool(r), self._family) for n, digest, v, d, r in rows]

    def record(self, release: Release) -> None:
        """Enter a release; once is enough."""
        text = release.model_dump_json(exclude={"path", "reused"})
        self._connection.execute(
            "INSERT INTO generations (number, digest, verified) VALUES (?, ?, ?)"
            " ON CONFLICT (number) DO UPDATE SET digest = excluded.digest, verified = excluded.verified",
            (release.generation, release.digest, release.created),
        )
        self._connection.execute(
            "INSERT OR IGNORE INTO releases VALUES (?, ?, ?)", (release.generation, release.release, text)
        )

    def releases(self) -> list[Release]:
        """All releases, newest first; `pruned` where the collection is gone."""
        rows = self._connection.execute(
            "SELECT record, release, dropped IS NOT NULL FROM releases JOIN generations ON generation = number"
            " ORDER BY generation DESC"
        )
        return [self._release(*row) for row in rows]

    def _release(self, record: str, name: str, dropped: int) -> Release:
        fields = json.loads(record)
        path = self.home / Release.shelf / name
        return Release(**{**fields, "path": path, "reused": True, "pruned": bool(dropped)})

    def move(self, epoch: int, release: str, why: str) -> None:
        """Enter a move of the pointer."""
        self._connection.execute("INSERT INTO moves VALUES (?, ?, ?, ?)", (epoch, release, _now(), why))

    def moves(self) -> list[Move]:
        """All moves of the pointer, oldest first."""
        return [Move(*row) for row in self._connection.execute("SELECT * FROM moves ORDER BY epoch")]


@contextmanager
def held(home: Path, generation: Generation) -> Iterator[bool]:
    """Hold a generation while pointing to it or removing it; false when another process holds it.

    The lock falls with its process, so a killed build is free at once.
    """
    lock = home / "locks" / f"{generation.collection}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=0):
            yield True
    except Timeout:
        yield False


def lock_names(home: Path) -> set[str]:
    """The names of all collections that were ever built here, as their locks tell: locks stay."""
    return {path.stem for path in (home / "locks").glob("*_r*_*.lock")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
