"""Prefect's server on SQLite, with transactions that take the write lock when they begin.

Prefect 3.8 reads before it writes in many transactions, and begins them as DEFERRED. If another transaction writes in
between, SQLite refuses the write at once with "database is locked", whatever the timeout: a worker loses its channel,
and requests end with 503. An IMMEDIATE transaction waits its turn instead. Prefect has that mode, and this module uses
it for every transaction. Remove it when a Prefect release begins its transactions that way.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from fastapi import FastAPI  # isort: skip
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

_begin = AioSqliteConfiguration.begin_transaction


def _begin_immediate(
    self: AioSqliteConfiguration, session: AsyncSession, with_for_update: bool = False
) -> AbstractAsyncContextManager[AsyncSessionTransaction]:
    return _begin(self, session, with_for_update=True)


AioSqliteConfiguration.begin_transaction = _begin_immediate  # type: ignore[method-assign, assignment]


def create_app() -> FastAPI:
    """Create the server as an application for uvicorn."""
    from prefect.server.api.server import create_app as create

    return create()


def main() -> None:
    """Run the command `prefect` with this command line, such as `server start`."""
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
