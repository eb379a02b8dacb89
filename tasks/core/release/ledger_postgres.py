"""A ledger's tables in PostgreSQL, for a home that several hosts share: locks on files may not hold between them.

The transaction that moves the pointer locks one row, and a generation is held by an advisory lock of the session; both
fall with the session. A pooler in between must not share sessions (PgBouncer: `pool_mode = session`).
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tasks.core.base.errors import NightshiftError, StaleNight, Unreachable
from tasks.core.base.files import write_text
from tasks.core.base.sections.release import ReleaseSettings
from tasks.core.release import ledger_database as database
from tasks.core.release.ledger_database import BOUND, TABLES, lock_of

LONGEST = 63  # characters of a name; PostgreSQL cuts longer ones without a word
CONNECT_SECONDS = 10
ORIGIN = "CREATE TABLE IF NOT EXISTS origin (home TEXT NOT NULL, born TEXT NOT NULL)"
# Off: a session that the server ends while its transaction waits for Milvus would let a second publisher in.
TIMEOUTS = "('idle_in_transaction_session_timeout', 'idle_session_timeout', 'statement_timeout')"


class Postgres:
    """A `Database` in the schema `ledger_<alias>`, which belongs to one home.

    Raises NightshiftError when psycopg is not installed, or the ledger is another home's; Unreachable when the server
    does not answer, or refuses the user.
    """

    def __init__(self, home: Path, alias: str, settings: ReleaseSettings) -> None:
        self._where, self._schema = f"ledger {settings.ledger} ({alias})", f"ledger_{alias}"
        if len(self._schema) > LONGEST:
            raise NightshiftError(f"{self._where}: give an alias of at most {LONGEST - 7} characters, [milvus] alias")
        connect = _psycopg().connect
        with self._readable():
            self._connection = connect(
                settings.ledger,
                password=settings.password.get_secret_value() or None,  # then PGPASSWORD and ~/.pgpass are asked
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=30,
                application_name="nightshift",
            )
        try:
            self._born = self._opened(home)
        except BaseException:
            self._connection.close()
            raise

    def _opened(self, home: Path) -> str:
        """Make the tables where they are not, and see that they are this home's; the name of this set of tables."""
        self.execute(f"SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN {TIMEOUTS}")  # noqa: S608
        with self._readable(), self._connection.transaction():
            self.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", [self._schema])
            # Looked for first, because not everyone who may use a schema may make one.
            if not self.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", [self._schema]):
                self.execute(f'CREATE SCHEMA "{self._schema}"')
            self.execute(f'SET search_path TO "{self._schema}"')
            for statement in (ORIGIN, *TABLES.split(";")):
                self.execute(statement)
            if not self.execute("SELECT 1 FROM origin"):
                self.execute("INSERT INTO origin VALUES (?, ?)", [_name_of(home), uuid.uuid4().hex])
            ((owner, born),) = self.execute("SELECT home, born FROM origin")
            if owner != _name_of(home):
                raise NightshiftError(
                    f"{self._where}: belongs to another home than {home}. Give this one its own [milvus] alias or its "
                    f"own database; if it is this home's, write {owner} into {home / BOUND}."
                )
        return str(born)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; see `Database.execute`."""
        with self._readable():
            cursor = self._connection.execute(statement.replace("?", "%s").encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock on the one row of `origin`; see `Database.exclusive`."""
        with self._readable(), self._connection.transaction():
            self.execute(f"SET LOCAL lock_timeout = {int(1000 * database.BUSY_SECONDS)}")
            self._check_in_place()
            self.execute("SET LOCAL lock_timeout = 0")
            yield

    def _check_in_place(self) -> None:
        """Tables that were dropped meanwhile keep nobody out: others have made new ones."""
        from psycopg.errors import UndefinedTable

        try:
            found = self.execute("SELECT born FROM origin FOR UPDATE")
        except NightshiftError as error:
            if not isinstance(error.__cause__, UndefinedTable):
                raise
            found = []
        if found != [(self._born,)]:
            raise StaleNight(f"{self._where}: was removed or replaced while this was under way; run the night again")

    @contextmanager
    def held(self, home: Path, name: str) -> Iterator[bool]:
        """Hold an advisory lock of this session; see `Database.held`."""
        lock_of(home, name).touch()
        key = [f"{self._schema}.{name}"]
        ((free,),) = self.execute("SELECT pg_try_advisory_lock(hashtextextended(?, 0))", key)
        try:
            yield bool(free)
        finally:
            if free:
                with suppress(NightshiftError):  # a session that is lost holds nothing any more
                    self.execute("SELECT pg_advisory_unlock(hashtextextended(?, 0))", key)

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    @contextmanager
    def _readable(self) -> Iterator[None]:
        from psycopg import Error, OperationalError
        from psycopg.errors import LockNotAvailable

        try:
            yield
        except LockNotAvailable as error:
            raise NightshiftError(
                f"{self._where}: locked for {database.BUSY_SECONDS} s. "
                "Another publish or rollback holds it; try again when that has ended."
            ) from error
        except OperationalError as error:
            raise Unreachable(f"{self._where}: no answer, or the user is refused ({str(error).strip()})") from error
        except Error as error:
            raise NightshiftError(f"{self._where}: {error}") from error


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise NightshiftError(
            f"[release] ledger needs psycopg ({error}): install the postgres extra, pip install 'nightshift[postgres]'"
        ) from error
    return psycopg


def _name_of(home: Path) -> str:
    """What the ledger calls this home; hosts may see it under different paths."""
    file = home / BOUND
    if not file.exists():
        write_text(file, uuid.uuid4().hex + "\n")
    return file.read_text(encoding="utf-8").strip()
