"""Run Prefect's server with two corrections. Remove each when a Prefect release includes it.

On SQLite, transactions are IMMEDIATE: they take the write lock when they begin. Prefect 3.8 uses DEFERRED
transactions, many of which read before they write. If another transaction writes in between, SQLite refuses the write
at once with "database is locked", regardless of the timeout. A worker then loses its connection, and requests fail with
503. IMMEDIATE transactions wait for the lock instead. Prefect supports them; this module uses them everywhere.

Automations stay in memory while Prefect evaluates their triggers, which refer to them weakly. Otherwise, an automation
that is replaced at that moment ends the evaluation of all triggers with "has been garbage collected".
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
    """Create the server application for uvicorn."""
    from prefect.server.api.server import create_app as create

    keep_automations()
    return create()


def keep_automations() -> None:
    """Keep the loaded automations in memory during each evaluation of their triggers."""
    from prefect.server.events import triggers

    evaluate = triggers.evaluate_proactive_triggers

    async def evaluate_and_keep() -> None:
        kept = list(triggers.automations_by_id.values())
        await evaluate()
        del kept

    triggers.evaluate_proactive_triggers = evaluate_and_keep


def main() -> None:
    """Run the `prefect` command with the arguments of this process, such as `server start`."""
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
