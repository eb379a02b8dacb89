"""Transactions of Prefect's server on SQLite."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TWO_AT_ONCE = """
import asyncio, sys
if sys.argv[2] == "ours":
    import flows.prefect_server
from prefect.server.database.configurations import AioSqliteConfiguration
from sqlalchemy import text

async def write(config, engine, read, patience):
    async with await config.session(engine) as session, config.begin_transaction(session):
        await session.execute(text("SELECT count(*) FROM runs"))
        read.set()
        await asyncio.sleep(patience)  # time for the other session to write
        await session.execute(text("INSERT INTO runs VALUES (1)"))

async def main():
    config = AioSqliteConfiguration(f"sqlite+aiosqlite:///{sys.argv[1]}")
    engine = await config.engine()
    async with await config.session(engine) as session, config.begin_transaction(session):
        await session.execute(text("CREATE TABLE runs (id INTEGER)"))
    read = asyncio.Event()
    slow = asyncio.create_task(write(config, engine, read, 0.5))
    await read.wait()
    await asyncio.gather(slow, write(config, engine, asyncio.Event(), 0))
    await engine.dispose()

asyncio.run(main())
"""


def test_a_transaction_that_reads_before_it_writes_waits_for_concurrent_writers(tmp_path: Path) -> None:
    def run(server: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", TWO_AT_ONCE, str(tmp_path / f"{server}.db"), server]
        return subprocess.run(command, capture_output=True, text=True, timeout=120)

    ours = run("ours")
    assert ours.returncode == 0, ours.stderr
    # When Prefect's own server passes too, delete flows/prefect_server.py.
    assert "database is locked" in run("prefect").stderr
