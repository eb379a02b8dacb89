"""A temporary Prefect server for one night. It exits with the night, even if the night is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from flows.local_prefect import HOST, wait_until_healthy
from tasks.core.base.processes import command_that_ends_with_parent

RETRIES = 2  # per request, 6 seconds in total; a local server that is silent for longer is dead


@contextmanager
def prefect_server() -> Iterator[None]:
    """Use the configured Prefect server, or start a temporary one on a free port with Prefect's default database.

    Prefect's own temporary server keeps running when the night is killed.

    Raises NightshiftError when the server does not start.
    """
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_UI_ENABLED,
        get_current_settings,
        temporary_settings,
    )

    if PREFECT_API_URL.value():
        yield
        return
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    url = f"http://{HOST}:{port}/api"
    overrides = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True), **overrides}
    # Without an app folder uvicorn imports from the folder that the user works in, which may have a flows/ of its own.
    application = ["--app-dir", str(Path(__file__).parents[1]), "--factory", "flows.prefect_server:create_app"]
    command = [sys.executable, "-m", "uvicorn", *application]
    options = ["--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on"]
    with TemporaryDirectory() as folder, (Path(folder) / "server.log").open("wb") as log:
        server = subprocess.Popen(  # noqa: S603 (our own command)
            command_that_ends_with_parent([*command, *options]),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            wait_until_healthy(Path(log.name), {"PREFECT_API_URL": url}, lambda: server.poll() is None)
            changed = {PREFECT_API_URL: url, PREFECT_CLIENT_MAX_RETRIES: RETRIES, PREFECT_UI_ENABLED: False}
            with temporary_settings(changed):  # no UI: reports must not link to a server that will be gone
                try:
                    yield
                finally:
                    if server.poll() is None:  # send pending logs and events before the server stops
                        APILogWorker.drain_all()
                        EventsWorker.drain_all()
        finally:
            server.terminate()
            server.wait()
