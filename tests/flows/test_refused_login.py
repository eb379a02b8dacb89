"""A Prefect server with a password that this process does not have."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from prefect_servers import serving_prefect

from flows.prefect_api import PrefectApi
from tasks.core.base.errors import Unreachable

MESSAGE = "the Prefect server at {} refuses the login (status 401). Set PREFECT_API_AUTH_STRING to its `user:password`"
NIGHT = """
from flows.run_night import run_night
from prefect import flow
from tasks.core.base.errors import NightshiftError

@flow
def night():
    raise AssertionError

try:
    run_night(night)
except NightshiftError as error:
    print(error)
"""


@contextmanager
def refusing_server(_: Path) -> Iterator[str]:
    """Answer each request as a Prefect server with a password answers it without one."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b'{"exception_message": "Unauthorized"}'
            self.send_response(401)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_PATCH = do_GET

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()


def protected_server(home: Path):
    return serving_prefect(home / "prefect", PREFECT_SERVER_API_AUTH_STRING="night:secret")


@pytest.mark.parametrize("server", [refusing_server, pytest.param(protected_server, marks=pytest.mark.slow)])
def test_the_error_names_the_missing_login(server, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    with server(tmp_path) as url:
        environment |= {"PREFECT_HOME": str(tmp_path), "PREFECT_API_URL": url}
        done = subprocess.run([sys.executable, "-c", NIGHT], env=environment, capture_output=True, text=True)
        with pytest.raises(Unreachable, match=re.escape(MESSAGE.format(url))):
            PrefectApi(url).post("flow_runs/filter", {})
    assert MESSAGE.format(url) in done.stdout, done.stderr
