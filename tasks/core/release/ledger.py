"""The ledger: generations, releases and every move of the pointer. The pointer is truth, this is history."""

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
from tasks.core.base.settings import Settings
from tasks.core.release.ledger_database import Database, Sqlite


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
        return cls(int(number[1:]), digest, verified=False, dropped=False, family=family)


@contextmanager
def open_ledger(settings: Settings) -> Iterator[Ledger]:
    """The ledger of the home that `settings` name, made on first use."""
    settings.home.mkdir(parents=True, exist_ok=True)
    with closing(_database(settings)) as database:
        yield Ledger(settings.home, database, settings.milvus.alias)


def _database(settings: Settings) -> Database:
    if not settings.release.ledger:
        return Sqlite(settings.home)
    from tasks.core.release.ledger_postgres import Postgres

    return Postgres(settings.home, settings.milvus.alias, settings.release)


class Ledger:
    """An open ledger. Every change belongs into a `with ledger.exclusive():`."""

    def __init__(self, home: Path, database: Database, family: str) -> None:
        self.home, self._database, self._family = home, database, family

    def exclusive(self) -> AbstractContextManager[None]:
        """Keep every other writer out, in this process and others; undo what was written when an error leaves."""
        return self._database.exclusive()

    def held(self, generation: Generation) -> AbstractContextManager[bool]:
        """Hold a generation while pointing to it or removing it; false when another process holds it.

        It falls with its process, so a killed build is free at once.
        """
        return self._database.held(self.home, generation.collection)

    def allocate(self, digest: str) -> Generation:
        """A new generation; its number is larger than any before it and never given again."""
        ((number,),) = self._database.execute(  # generations are never removed, so the largest is the last
            "INSERT INTO generations (number, digest) SELECT COALESCE(MAX(number), 0) + 1, ? FROM generations"
            " RETURNING number",
            (digest,),
        )
        return Generation(number, digest, verified=False, dropped=False, family=self._family)

    def adopt(self, generation: Generation) -> None:
        """Enter a generation that is there, though this ledger never gave its number; it counts as unfinished."""
        self._database.execute(
            "INSERT INTO generations (number, digest) VALUES (?, ?) ON CONFLICT DO NOTHING",
            (generation.number, generation.digest),
        )

    def mark_verified(self, number: int) -> None:
        """Note that the collection of a generation is whole."""
        self._database.execute("UPDATE generations SET verified = ? WHERE number = ?", (_now(), number))

    def mark_dropped(self, number: int) -> None:
        """Note that the collection of a generation is gone, or about to be."""
        self._database.execute("UPDATE generations SET dropped = ? WHERE number = ?", (_now(), number))

    def generations(self) -> list[Generation]:
        """All generations, newest first."""
        rows = self._database.execute(
            "SELECT number, digest, verified IS NOT NULL, dropped IS NOT NULL FROM generations ORDER BY number DESC"
        )
        return [
            Generation(n, digest, bool(verified), bool(dropped), self._family) for n, digest, verified, dropped in rows
        ]

    def record(self, release: Release) -> None:
        """Enter a release; once is enough."""
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
        """All releases, newest first; `pruned` where the collection is gone.

        Raises Mismatch for a record of another version of Nightshift.
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
                f"ledger of {self.home}: the record of release {name} is damaged, or of another version of Nightshift "
                f"({error.error_count()} fields). Use that version, or move the ledger away: it is made again."
            ) from error
        return release.model_copy(update={"pruned": bool(dropped)})

    def move(self, epoch: int, release: str, why: str) -> None:
        """Enter a move of the pointer."""
        self._database.execute("INSERT INTO moves VALUES (?, ?, ?, ?)", (epoch, release, _now(), why))

    def moves(self) -> list[Move]:
        """All moves of the pointer, oldest first."""
        return [Move(*row) for row in self._database.execute("SELECT * FROM moves ORDER BY epoch")]


def lock_names(home: Path) -> set[str]:
    """The names of all collections that were ever built here, as their locks tell: locks stay."""
    return {path.stem for path in (home / "locks").glob("*_r*_*.lock")}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
