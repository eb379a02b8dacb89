"""The ledger: every generation, release, and move of the pointer. The pointer decides; the ledger is its history."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Release
from tasks.core.release.home_settings import HomeSettings
from tasks.core.release.ledger_database import Database, Sqlite


class Move(NamedTuple):
    """One move of the pointer.

    `epoch` is its position in the sequence of moves; `why` is publish, rollback, repaired, or rebuilt (homes of earlier
    versions hold another word for repaired).
    """

    epoch: int
    release: str
    at: str
    why: str


class Generation(NamedTuple):
    """One attempt to build a collection. `digest` identifies the parts of its release."""

    number: int
    digest: str
    verified: bool
    dropped: bool
    family: str = "nightshift"  # prefix of this home's collection names

    @property
    def release(self) -> str:
        """Name of the release that this generation is, or would become."""
        return f"r{self.number:04d}-{self.digest[:8]}"

    @property
    def collection(self) -> str:
        """Name of its collection. Milvus allows only letters, digits, and underscores."""
        return f"{self.family}_{self.release.replace('-', '_')}"

    @classmethod
    def from_collection(cls, collection: str) -> Generation:
        """Parse a collection name. It contains only the first 8 digits of the digest."""
        family, number, digest = collection.rsplit("_", 2)
        return cls(int(number[1:]), digest, verified=False, dropped=False, family=family)


@contextmanager
def open_ledger(settings: HomeSettings) -> Iterator[Ledger]:
    """Open the ledger of a home; create it on first use."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with closing(_database(settings)) as database:
        yield Ledger(settings.home, database, settings.milvus.alias)


def _database(settings: HomeSettings) -> Database:
    if not settings.release.ledger:
        return Sqlite(settings.home)
    from tasks.core.release.ledger_postgres import Postgres

    return Postgres(settings.home, settings.milvus.alias, settings.release)


class Ledger:
    """An open ledger. Make every change inside `with ledger.exclusive():`."""

    def __init__(self, home: Path, database: Database, family: str) -> None:
        self.home, self._database, self._family = home, database, family

    def exclusive(self) -> AbstractContextManager[None]:
        """Start a transaction that blocks all other writers, in any process, and rolls back on an error."""
        return self._database.exclusive()

    def lock_generation(self, generation: Generation) -> AbstractContextManager[bool]:
        """Lock a generation while building, publishing, or removing it; yield false if another process holds the lock.

        The lock ends with its process, so a killed build leaves nothing locked.
        """
        return self._database.lock_name(self.home, generation.collection)

    def allocate(self, digest: str) -> Generation:
        """Add a generation. Its number is larger than all earlier ones and is never reused."""
        ((number,),) = self._database.execute(  # rows are never deleted, so the maximum is the latest
            "INSERT INTO generations (number, digest) SELECT COALESCE(MAX(number), 0) + 1, ? FROM generations"
            " RETURNING number",
            (digest,),
        )
        return Generation(number, digest, verified=False, dropped=False, family=self._family)

    def adopt(self, generation: Generation) -> None:
        """Add an existing generation that this ledger does not know. It counts as unfinished."""
        self._database.execute(
            "INSERT INTO generations (number, digest) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (generation.number, generation.digest),
        )

    def mark_verified(self, number: int) -> None:
        """Record that the collection of a generation passed every check."""
        self._database.execute("UPDATE generations SET verified = ? WHERE number = ?", (_now(), number))

    def mark_dropped(self, number: int) -> None:
        """Record that the collection of a generation is removed, or about to be."""
        self._database.execute("UPDATE generations SET dropped = ? WHERE number = ?", (_now(), number))

    def generations(self) -> list[Generation]:
        """Return all generations, newest first."""
        rows = self._database.execute(
            "SELECT number, digest, verified IS NOT NULL, dropped IS NOT NULL FROM generations ORDER BY number DESC"
        )
        return [
            Generation(n, digest, bool(verified), bool(dropped), self._family) for n, digest, verified, dropped in rows
        ]

    def record_release(self, release: Release) -> None:
        """Add a release; do nothing if the ledger already has it."""
        text = release.model_dump_json(exclude={"path", "reused"})
        self._database.execute(
            "INSERT INTO generations (number, digest, verified) VALUES (?, ?, ?)"
            " ON CONFLICT (number) DO UPDATE SET digest = excluded.digest, verified = excluded.verified",
            (release.generation, release.digest, release.created),
        )
        self._database.execute(
            "INSERT INTO releases VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
            (release.generation, release.release, text),
        )

    def releases(self) -> list[Release]:
        """Return all releases, newest first. `pruned` is true where the collection was removed.

        Raises Mismatch when a record was written by another version of Nightshift.
        """
        rows = self._database.execute(
            "SELECT record, release, dropped IS NOT NULL FROM releases JOIN generations ON generation = number"
            " ORDER BY generation DESC"
        )
        return [self._release(*row) for row in rows]

    def _release(self, record: str, name: str, dropped: int) -> Release:
        path = self.home / Release.shelf / name
        try:
            release = Release(**{**json.loads(record), "path": path, "reused": True})
        except ValidationError as error:
            raise Mismatch(
                f"ledger of {self.home}: the record of release {name} is damaged or from another version of Nightshift "
                f"({error.error_count()} fields). Use that version, or move the ledger away to have it rebuilt."
            ) from error
        return release.model_copy(update={"pruned": bool(dropped)})

    def record_move(self, epoch: int, release: str, why: str) -> None:
        """Add a move of the pointer."""
        self._database.execute("INSERT INTO moves VALUES (?, ?, ?, ?)", (epoch, release, _now(), why))

    def moves(self) -> list[Move]:
        """Return all moves of the pointer, oldest first."""
        return [Move(*row) for row in self._database.execute("SELECT * FROM moves ORDER BY epoch")]


def lock_names(home: Path) -> set[str]:
    """Return the names of all collections ever built in this home. Their lock files are never removed."""
    return {path.stem for path in (home / "locks").glob("*_r*_*.lock")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
