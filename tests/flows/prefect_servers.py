"""Prefect servers for tests, each in its own process."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flows.server_log import LogError, read_errors


def free_port() -> int:
    """Return a free local port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


@contextmanager
def serving_prefect(home: Path, **environment: str) -> Iterator[str]:
    """A server over `home`, on a free port of the loopback; its API's URL."""
    home.mkdir(exist_ok=True)
    port = free_port()
    mine = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **environment}
    with (home / "server.log").open("wb") as log:
        options = ["--host", "127.0.0.1", "--port", str(port)]
        command = [sys.executable, "-m", "flows.prefect_server", "server", "start", *options]
        server = subprocess.Popen(command, env=mine, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}/api"
    try:
        _wait_for(f"{url}/health", server)
        yield url
    finally:
        server.terminate()
        server.wait(timeout=30)
    assert_no_errors(home)


def assert_no_errors(folder: Path, allowed: Sequence[str] = ()) -> None:
    """Fail when a server or a worker logged an error, but for lines that match `allowed`: faults that a test causes."""
    errors: list[tuple[str, LogError]] = [
        (name, error)
        for name in ("server.log", "worker.log", "watchdog.log")
        for error in read_errors(folder / name)
        if not any(re.search(pattern, error.line) for pattern in allowed)
    ]
    assert not errors, "\n".join(f"{name}: {error}" for name, error in errors)


def query_server(api: str, what: str, body: object) -> list[dict[str, Any]]:
    """Return the objects of kind `what` that match a filter."""
    request = urllib.request.Request(
        f"{api}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        rows: list[dict[str, Any]] = json.load(answer)
    return rows


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        assert server.poll() is None, "the Prefect server ended before it was healthy"
        try:
            with urllib.request.urlopen(url, timeout=1):
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    raise TimeoutError(url)
