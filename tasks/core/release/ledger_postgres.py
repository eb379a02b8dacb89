"""The ledger's tables in PostgreSQL, for a home that several hosts share. File locks may not work between hosts.

The transaction that moves the pointer locks one row; a generation is locked by an advisory lock of the session. Both
locks end with the session, so a connection pooler must not share sessions (PgBouncer: `pool_mode = session`).
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
from tasks.core.release.ledger_database import BOUND, TABLES, lock_file

MAX_NAME_LENGTH = 63  # characters in a name; PostgreSQL silently truncates longer names
CONNECT_SECONDS = 10
ORIGIN = "CREATE TABLE IF NOT EXISTS origin (home TEXT NOT NULL, born TEXT NOT NULL)"
# Disabled: if the server ended a session that waits for Milvus, a second publisher could start.
TIMEOUTS = "('idle_in_transaction_session_timeout', 'idle_session_timeout', 'statement_timeout')"


class Postgres:
    """A `Database` in the schema `ledger_<alias>`, which belongs to one home.

    Raises NightshiftError when psycopg is not installed or the ledger belongs to another home; Unreachable when the
    server does not answer or rejects the user.
    """

    def __init__(self, home: Path, alias: str, settings: ReleaseSettings) -> None:
        self._label, self._schema = f"ledger {settings.ledger} ({alias})", f"ledger_{alias}"
        if len(self._schema) > MAX_NAME_LENGTH:
            longest = MAX_NAME_LENGTH - len("ledger_")
            raise NightshiftError(f"{self._label}: [milvus] alias is too long; use at most {longest} characters")
        connect = _psycopg().connect
        with self._convert_errors():
            self._connection = connect(
                settings.ledger,
                password=settings.password.get_secret_value() or None,  # None: psycopg reads PGPASSWORD and ~/.pgpass
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                keepalives_idle=30,
                application_name="nightshift",
            )
        try:
            self._born = self._open_schema(home)
        except BaseException:
            self._connection.close()
            raise

    def _open_schema(self, home: Path) -> str:
        """Create missing tables and check that they belong to this home; return the id of this set of tables."""
        self.execute(f"SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN {TIMEOUTS}")  # noqa: S608
        with self._convert_errors(), self._connection.transaction():
            self.execute("SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", [self._schema])
            # Check first: a user who may use a schema may not be allowed to create one.
            if not self.execute("SELECT 1 FROM pg_namespace WHERE nspname = ?", [self._schema]):
                self.execute(f'CREATE SCHEMA "{self._schema}"')
            self.execute(f'SET search_path TO "{self._schema}"')
            for statement in (ORIGIN, *TABLES.split(";")):
                self.execute(statement)
            if not self.execute("SELECT 1 FROM origin"):
                self.execute("INSERT INTO origin VALUES (?, ?)", [_home_id(home), uuid.uuid4().hex])
            ((owner, born),) = self.execute("SELECT home, born FROM origin")
            if owner != _home_id(home):
                raise NightshiftError(
                    f"{self._label}: belongs to another home than {home}. Give this home its own [milvus] alias or its "
                    f"own database. If the ledger is this home's, write {owner} into {home / BOUND}."
                )
        return str(born)

    def execute(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Run a statement; see `Database.execute`."""
        with self._convert_errors():
            cursor = self._connection.execute(statement.replace("?", "%s").encode(), values or None)
            return cursor.fetchall() if cursor.description else []

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock on the one row of `origin`; see `Database.exclusive`."""
        with self._convert_errors(), self._connection.transaction():
            self.execute(f"SET LOCAL lock_timeout = {int(1000 * database.BUSY_SECONDS)}")
            self._check_in_place()
            self.execute("SET LOCAL lock_timeout = 0")
            yield

    def _check_in_place(self) -> None:
        """Refuse tables that were dropped: locking them would not exclude users of the new tables."""
        from psycopg.errors import UndefinedTable

        try:
            rows = self.execute("SELECT born FROM origin FOR UPDATE")
        except NightshiftError as error:
            if not isinstance(error.__cause__, UndefinedTable):
                raise
            rows = []
        if rows != [(self._born,)]:
            raise StaleNight(f"{self._label}: was removed or replaced during this operation; run the night again")

    @contextmanager
    def lock_name(self, home: Path, name: str) -> Iterator[bool]:
        """Take an advisory lock of this session; see `Database.lock_name`."""
        lock_file(home, name).touch()
        key = [f"{self._schema}.{name}"]
        ((locked,),) = self.execute("SELECT pg_try_advisory_lock(hashtextextended(?, 0))", key)
        try:
            yield bool(locked)
        finally:
            if locked:
                with suppress(NightshiftError):  # a lost session holds no locks
                    self.execute("SELECT pg_advisory_unlock(hashtextextended(?, 0))", key)

    def close(self) -> None:
        """End the session."""
        self._connection.close()

    @contextmanager
    def _convert_errors(self) -> Iterator[None]:
        """Convert errors of psycopg to NightshiftError, or Unreachable if a retry may help."""
        from psycopg import Error, OperationalError
        from psycopg.errors import LockNotAvailable

        try:
            yield
        except LockNotAvailable as error:
            raise NightshiftError(
                f"{self._label}: locked for {database.BUSY_SECONDS} s. "
                "Another publish or rollback holds it; try again when that has finished."
            ) from error
        except OperationalError as error:
            raise Unreachable(f"{self._label}: no answer, or the user is rejected ({str(error).strip()})") from error
        except Error as error:
            raise NightshiftError(f"{self._label}: {error}") from error


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise NightshiftError(
            f"[release] ledger needs psycopg ({error}): install the postgres extra, pip install 'nightshift[postgres]'"
        ) from error
    return psycopg


def _home_id(home: Path) -> str:
    """Return the id of this home in the ledger. Hosts may mount the home under different paths."""
    file = home / BOUND
    if not file.exists():
        write_text(file, uuid.uuid4().hex + "\n")
    return file.read_text(encoding="utf-8").strip()
