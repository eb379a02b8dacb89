"""A server, a worker, and a watchdog, as `nightshift up` starts them, for tests."""

from __future__ import annotations

import base64
import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect_servers import assert_no_errors, free_port

ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PATIENCE = 240  # seconds; on a busy machine a worker needs ten to start a run


class Operated:
    """What `nightshift up` started on a home: its REST interface, as its user sees it, its processes, and its logs."""

    def __init__(self, home: Path, url: str) -> None:
        self.home, self.url = home, url
        self.folder = home / "prefect"
        self.login = (self.folder / "login").read_text().strip()
        self.words = ""  # that `up` printed
        self.allowed: list[str] = []  # patterns of error lines that a test causes

    def process(self, name: str) -> int:
        number: int = json.loads((self.folder / "up.json").read_text())[name]
        return number

    def pause_worker(self) -> None:
        """Let the worker take no run from here on; it lives, and the server plans runs."""
        self.ask("work_pools/nightshift", {"is_paused": True}, "PATCH")

    def ask(self, path: str, body: object | None = None, method: str | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        basic = base64.b64encode(self.login.encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers, method=method)
        for patience in range(10, -1, -1):  # its database may be busy; Prefect's own client asks again too
            try:
                with urllib.request.urlopen(request) as answer:
                    content = answer.read()
                    return json.loads(content) if content else None
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:
                    raise
                time.sleep(1)
            except (urllib.error.URLError, ConnectionError):  # it starts again
                if not patience:
                    raise
                time.sleep(3)
        raise AssertionError

    def start(self, flow: str, **parameters: object) -> str:
        deployment = self.ask(f"deployments/name/{flow}/{flow}")["id"]
        run: str = self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
        return run

    def wait(self, run: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            flow_run: dict[str, Any] = self.ask(f"flow_runs/{run}")
            if flow_run["state"] and flow_run["state"]["type"] in ENDED:
                return flow_run
            time.sleep(0.5)
        raise TimeoutError(f"{run}: {flow_run['state']}")

    def outcome(self, flow: str, **parameters: object) -> str:
        name: str = self.wait(self.start(flow, **parameters))["state"]["name"]
        return name

    def runs(self, flow: str) -> list[dict[str, Any]]:
        runs: list[dict[str, Any]] = self.ask(
            "flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
        )
        return runs

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"it never came: {what}"
            time.sleep(0.5)


@contextmanager
def operating(nightshift: Callable[..., Any], home: Path, *arguments: str) -> Iterator[Operated]:
    """Run `nightshift up` with `arguments`, and `down` at the end; no log may hold an error."""
    port = free_port()
    started = nightshift("up", "--port", str(port), *arguments)
    server = None
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        server = Operated(home, f"http://127.0.0.1:{port}")
        server.words = started.stdout
        yield server
    finally:
        ended = nightshift("down", "--now")
    assert "ended" in ended.stdout
    assert_no_errors(server.folder, server.allowed)
