"""Fixtures for tests of releases and search: a small home on every kind of Milvus."""

from __future__ import annotations

import atexit
import tempfile
import uuid
from contextlib import ExitStack
from functools import cache
from pathlib import Path

import pytest
from milvus_servers import lite_server, real_server
from postgres_servers import postgres_server
from release_world import small

everywhere = pytest.mark.parametrize(
    "settings", ["embedded", "lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True
)
ledgers = pytest.mark.parametrize(
    "settings",
    ["embedded", "lite", pytest.param("server", marks=pytest.mark.slow), "postgres"],
    indirect=True,
)
SERVERS = {"lite": lite_server, "server": real_server, "postgres": postgres_server}


@pytest.fixture
def settings(request, tmp_path):
    """Return settings of a new home: on embedded Milvus, or on the kinds listed in `everywhere` or `ledgers`."""
    where, alias = getattr(request, "param", "embedded"), f"t{uuid.uuid4().hex[:12]}"
    if where == "embedded":
        return small(tmp_path / "var")
    if where == "postgres":  # a setup for several hosts: the pointer is an alias, the ledger is in PostgreSQL
        ledger, password = server("postgres")
        return small(tmp_path / "var", {"ledger": ledger, "password": password}, uri=server("lite"), alias=alias)
    return small(tmp_path / "var", uri=server(where), alias=alias)


@cache
def server(kind):
    """Return the address of a server that all tests of this process share. It stops with the process."""
    running = ExitStack()
    folder = running.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
    atexit.register(running.close)
    return running.enter_context(SERVERS[kind](Path(folder) / "data"))
