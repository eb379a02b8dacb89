"""A Prefect server and a worker on this machine, for those who have none: started, found again, ended."""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.errors import NightshiftError
from tasks.core.files import exclusive, write_json, write_text

HEALTHY_WITHIN = 120  # seconds; on a busy machine a first start makes a database meanwhile
ENDS_WITHIN = 30
HOST = "127.0.0.1"


class Running(BaseModel):
    """What `nightshift up` left running, as it stands in `<home>/prefect/up.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str
    server: int  # process ids
    worker: int


def start(home: Path, settings_file: Path | None, deployments: Path | None, port: int) -> Running:
    """Start server, deployments and worker, or those of them that do not run. Safe to call again.

    Raises NightshiftError when the port is taken, or one of them does not start: with the end of its log.
    """
    folder = home.absolute() / "prefect"
    with exclusive(folder / "up.lock"):
        known = running(home)
        url = known.url if known else f"http://{HOST}:{port}"
        environment = {**os.environ, **_environment(home, url, settings_file)}
        server = known.server if known else _start_server(folder, environment, port)
        write_json(folder / "up.json", Running(url=url, server=server, worker=0).model_dump())
        wait_until_healthy(folder / "server.log", environment, lambda: _lives(server))
        _bootstrap(environment, deployments)
        worker = known.worker if known and _lives(known.worker) else _start_worker(folder, environment)
        now = Running(url=url, server=server, worker=worker)
        write_json(folder / "up.json", now.model_dump())
    return now


def running(home: Path) -> Running | None:
    """What runs of what `start` started on this home; None when its server does not."""
    try:
        known = Running(**json.loads((home / "prefect" / "up.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    return known if _lives(known.server) else None


def join(home: Path) -> None:
    """Let this process, which has not imported Prefect yet, speak to the server that runs on this home, if any."""
    known = running(home)
    if known is not None and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = f"{known.url}/api"
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login(home))


def login(home: Path) -> str:
    """`user:password` of this home's server: PREFECT_SERVER_API_AUTH_STRING, or else made once and kept."""
    if given := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        return given
    file = home / "prefect" / "login"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        before = os.umask(0o077)
        try:
            write_text(file, f"nightshift:{secrets.token_urlsafe(18)}\n")
        finally:
            os.umask(before)
    return file.read_text(encoding="utf-8").strip()


def runs_under_way(home: Path, known: Running) -> list[str]:
    """The names of the flow runs that a worker is at."""
    asked = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}}
    request = urllib.request.Request(  # noqa: S310 (our own server)
        f"{known.url}/api/flow_runs/filter",
        json.dumps(asked).encode(),
        {"Content-Type": "application/json", "Authorization": _basic(login(home))},
    )
    with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
        return [run["name"] for run in json.load(answer)]


def stop(home: Path, known: Running) -> None:
    """End worker and server; a run under way ends with them, and the next night goes on where it was."""
    for process in (known.worker, known.server):
        _end(process)
    (home / "prefect" / "up.json").unlink(missing_ok=True)


def wait_until_healthy(log: Path, environment: Mapping[str, str], lives: Callable[[], bool]) -> None:
    """Wait for the server whose PREFECT_API_URL `environment` has, as long as it `lives`.

    Raises NightshiftError, with the end of its log, when it ends or takes too long.
    """
    login = environment.get("PREFECT_API_AUTH_STRING", "")
    request = urllib.request.Request(  # noqa: S310 (our own server)
        f"{environment['PREFECT_API_URL']}/health", headers={"Authorization": _basic(login)} if login else {}
    )
    deadline = time.monotonic() + HEALTHY_WITHIN
    while time.monotonic() < deadline and lives():
        try:
            with urllib.request.urlopen(request, timeout=2):  # noqa: S310
                return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise NightshiftError(f"the Prefect server did not become healthy; the end of {log}:\n{tail}")


def _environment(home: Path, url: str, settings_file: Path | None) -> dict[str, str]:
    more = {"NIGHTSHIFT_SETTINGS": str(settings_file.absolute())} if settings_file else {}
    return {
        **more,
        "NIGHTSHIFT_HOME": str(home.absolute()),
        "PREFECT_HOME": str(home.absolute() / "prefect"),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_AUTH_STRING": login(home),
        "PREFECT_API_AUTH_STRING": login(home),
    }


def _start_server(folder: Path, environment: Mapping[str, str], port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise NightshiftError(
                f"port {port} of {HOST} is taken: by another Prefect? Point PREFECT_API_URL at it and run "
                "`python -m infra.bootstrap`, or choose another: nightshift up --port 4300"
            ) from error
    return _spawn(folder / "server.log", environment, "server", "start", "--host", HOST, "--port", str(port))


def _start_worker(folder: Path, environment: Mapping[str, str]) -> int:
    return _spawn(folder / "worker.log", environment, "worker", "start", "--pool", "nightshift", "--type", "process")


def _spawn(log: Path, environment: Mapping[str, str], *arguments: str) -> int:
    """Start `prefect …` as a session of its own, so that it stays when the terminal goes."""
    with log.open("ab") as out:
        command = [sys.executable, "-m", "prefect", *arguments]
        return subprocess.Popen(  # noqa: S603 (our own command)
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        ).pid


def _bootstrap(environment: Mapping[str, str], deployments: Path | None) -> None:
    more = ["--deployments", str(deployments)] if deployments else []
    command = [sys.executable, "-m", "infra.bootstrap", *more]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise NightshiftError(f"the deployments could not be made:\n{done.stdout}{done.stderr}")


def _lives(process: int) -> bool:
    """True when a process of this number runs and is one of Prefect's: numbers are used again."""
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(process)]  # -ww: else cut at $COLUMNS, Prefect's name too
    shown = subprocess.run(command, capture_output=True, text=True)  # noqa: S603
    return "prefect" in shown.stdout and not shown.stdout.lstrip().startswith("Z")


def _end(process: int) -> None:
    if not _lives(process):
        return
    for how in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process, how)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + ENDS_WITHIN
        while time.monotonic() < deadline:
            if not _lives(process):
                return
            time.sleep(0.1)


def _basic(user_and_password: str) -> str:
    return "Basic " + base64.b64encode(user_and_password.encode()).decode()
