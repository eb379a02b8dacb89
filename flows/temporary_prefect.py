"""A Prefect server for the length of one night, for those who have none. It ends with the night, killed or not."""

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

RETRIES = 2  # of a request, 6 seconds in all: a server on this machine is busy for a moment, or it is dead


@contextmanager
def prefect_server() -> Iterator[None]:
    """The Prefect server that is configured; where none is, one of our own on a free port, over the usual database.

    Prefect starts such a server too, and leaves it behind when the night is killed.

    Raises NightshiftError when it does not start.
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
    own = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    environment = {**os.environ, **get_current_settings().to_environment_variables(exclude_unset=True), **own}
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
            with temporary_settings(changed):  # without a UI, so that reports link to no page
                try:
                    yield
                finally:
                    if server.poll() is None:  # send what waits: at the end of this process the server is gone
                        APILogWorker.drain_all()
                        EventsWorker.drain_all()
        finally:
            server.terminate()
            server.wait()
