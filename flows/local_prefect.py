"""Start, find, and stop a local Prefect server, worker, and watchdog, for users without a Prefect server."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from pydantic import ValidationError

from flows.collections import Collection
from flows.prefect_api import PrefectApi
from flows.prefect_processes import end, lives, spawn
from flows.running import Running, host_of, link_to_host, unlink_from_host
from flows.schedules import Schedule, forget_schedules, keep_schedules, next_runs, read_schedules
from flows.server_log import read_errors
from tasks.core.base.checksums import set_aside
from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import exclusive, write_json, write_text

HEALTHY_WITHIN = 120  # seconds; the first start creates a database
SCHEDULED_WITHIN = 90  # seconds; the scheduler handles new deployments every 5 seconds, all deployments every 60
HOST = "127.0.0.1"
GRACE = timedelta(minutes=10)  # a run that starts later than this triggers a watchdog alert

# Defaults of the server that `up` starts. Variables that the user has set take precedence.
SERVER_DEFAULTS = {
    # Leases in memory are lost when the server dies. Their slots would stay taken, and no run would start again.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "10",
    "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "15",
    "PREFECT_SERVER_CONCURRENCY_MAXIMUM_CONCURRENCY_SLOT_WAIT_SECONDS": "10",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",  # runs older than 90 days, with their logs
}


def start(
    home: Path,
    settings_file: Path | None,
    deployments: Path | None,
    port: int,
    grace: timedelta = GRACE,
    collections: Sequence[Collection] = (),
    nights: int = 1,
) -> Running:
    """Start the server, deployments, worker, and watchdog, unless they run already. Safe to call again.

    Args:
        home: home whose folder `prefect` keeps the server's database and logs.
        settings_file: settings of a collection that runs alone.
        deployments: a copy of infra/prefect.yaml.
        port: port of the server.
        grace: how late a scheduled run may start.
        collections: collections that run side by side, instead of `settings_file`.
        nights: number of nights of all collections that may run at once.

    Raises NightshiftError when the port is taken, when the server runs other collections, or, with the end of its log,
    when the server does not start.
    """
    if running(home) is None:
        unlink_from_host(home)  # the server that it shared is gone
    folder = prefect_folder(home)
    with exclusive(folder / "up.lock"):
        known = running(home)
        _check_collections(known, collections)
        url = known.url if known else f"http://{HOST}:{port}"
        environment = _environment(home, url, settings_file, shared=bool(collections))
        now = Running(
            url=url,
            server=known.server if known else start_server(folder, environment, port),
            worker=known.worker if known and lives(known.worker) else 0,
            watchdog=known.watchdog if known and lives(known.watchdog) else 0,
            collections=tuple(collections),
        )
        save_running(home, now)
        for collection in collections:
            if collection.home != folder.parent:
                link_to_host(collection.home, folder.parent)
        wait_until_healthy(folder / "server.log", environment, lambda: lives(now.server))
        _bootstrap(environment, deployments, collections, nights)
        if not now.worker:
            now = now.model_copy(update={"worker": start_worker(folder, environment)})
        if not now.watchdog:
            now = now.model_copy(update={"watchdog": _start_watchdog(home, environment, grace)})
        save_running(home, now)
    return now


def _check_collections(known: Running | None, collections: Sequence[Collection]) -> None:
    """Raise NightshiftError when a running server runs other collections, or one of `collections` elsewhere."""
    names = sorted(collection.name for collection in collections)
    if known is not None and sorted(collection.name for collection in known.collections) != names:
        running_now = ", ".join(collection.name for collection in known.collections) or "this collection alone"
        raise NightshiftError(
            f"the Prefect server at {known.url} runs {running_now}. To change that, stop it: nightshift down. Then run "
            "nightshift up with all settings files"
        )
    for collection in collections:
        if (other := running(collection.home)) is not None and other != known:
            raise NightshiftError(
                f"{collection.settings_file}: a Prefect server at {other.url} runs this collection already. Stop it: "
                f"nightshift down --settings {collection.settings_file}"
            )


def started(home: Path) -> Running | None:
    """Return the processes that `start` recorded on this home, dead or alive. None before `start` and after `stop`.

    Renames a damaged record to a backup and returns None.
    """
    file = prefect_folder(home) / "up.json"
    try:
        return Running.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        set_aside(file, f"{file}: damaged ({reason}). Processes that `nightshift up` started may still run")
        return None


def running(home: Path) -> Running | None:
    """Return the processes that `start` recorded on this home, or None when the server is dead."""
    known = started(home)
    return known if known and lives(known.server) else None


def save_running(home: Path, now: Running) -> None:
    """Store the processes. The caller must hold `up.lock`."""
    write_json(prefect_folder(home) / "up.json", now.model_dump())


def prefect_folder(home: Path) -> Path:
    """Return the folder of the server's database and logs: in home, or in that of the collection that it shares."""
    return host_of(home.absolute()) / "prefect"


def api_of(home: Path, known: Running) -> PrefectApi:
    """Return a client for the REST API of this home's server."""
    return PrefectApi.with_login(f"{known.url}/api", login(home))


def wait_until_scheduled(home: Path, known: Running) -> list[tuple[Schedule, datetime]]:
    """Wait until the server has scheduled a run of every active schedule; return schedules and start times.

    Raises NightshiftError, with the errors in the server's log, when a run is not scheduled in time.
    """
    api = api_of(home, known)
    schedules = [
        schedule
        for collection in known.on(home)
        for schedule in keep_schedules(collection.home, read_schedules(api, collection.name))
    ]
    deadline = time.monotonic() + SCHEDULED_WITHIN
    while True:
        planned = [(schedule, when) for schedule in schedules if (when := next_runs(api, schedules)[schedule.id])]
        if len(planned) == len(schedules):
            return planned
        if time.monotonic() > deadline:
            break
        time.sleep(0.5)
    missing = {schedule.deployment for schedule in schedules} - {schedule.deployment for schedule, _ in planned}
    log = prefect_folder(home) / "server.log"
    errors = "\n".join(str(error) for error in read_errors(log)) or "no errors"
    raise NightshiftError(
        f"the Prefect server scheduled no run of {', '.join(sorted(missing)) or 'a schedule'} within "
        f"{SCHEDULED_WITHIN} seconds, so no night would start. Errors in {log}:\n{errors}\n"
        "Install the versions in infra/constraints.txt. Then run: nightshift down, nightshift up."
    )


def use_running_server(home: Path) -> None:
    """Point this process at the server that runs on this home, if any. Call before importing Prefect."""
    known = running(home)
    if known is not None and "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = f"{known.url}/api"
        os.environ.setdefault("PREFECT_API_AUTH_STRING", login(home))


def login(home: Path) -> str:
    """Return `user:password` of this home's server: PREFECT_SERVER_API_AUTH_STRING, or a stored random password."""
    if configured := os.environ.get("PREFECT_SERVER_API_AUTH_STRING"):
        return configured
    file = prefect_folder(home) / "login"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        previous = os.umask(0o077)
        try:
            write_text(file, f"nightshift:{secrets.token_urlsafe(18)}\n")
        finally:
            os.umask(previous)
    return file.read_text(encoding="utf-8").strip()


def active_runs(home: Path, known: Running) -> list[str]:
    """List the names of the flow runs in progress.

    Raises Unreachable when the server does not answer.
    """
    query = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}}
    return [run["name"] for run in api_of(home, known).post("flow_runs/filter", query)]


def stop(home: Path, known: Running) -> None:
    """Stop the watchdog, worker, server, and runs in progress. The next night resumes their work."""
    with exclusive(prefect_folder(home) / "up.lock"):
        known = started(home) or known  # the watchdog may have restarted a process
        for process in (known.watchdog, known.worker, known.server):
            end(process)
        (prefect_folder(home) / "up.json").unlink(missing_ok=True)
        for collection in known.on(home):
            unlink_from_host(collection.home)
            forget_schedules(collection.home)


def wait_until_healthy(log: Path, environment: Mapping[str, str], alive: Callable[[], bool]) -> None:
    """Wait until the server at PREFECT_API_URL in `environment` is healthy, while `alive()` is true.

    Raises NightshiftError, with the end of `log`, when the server exits or takes too long.
    """
    api = PrefectApi.with_login(environment["PREFECT_API_URL"], environment.get("PREFECT_API_AUTH_STRING", ""))
    deadline = time.monotonic() + HEALTHY_WITHIN
    while time.monotonic() < deadline and alive():
        if api.answers():
            return
        time.sleep(0.2)
    tail = "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    raise NightshiftError(f"the Prefect server did not become healthy; the end of {log}:\n{tail}")


def start_server(folder: Path, environment: Mapping[str, str], port: int) -> int:
    """Start the server and return its process id.

    Raises NightshiftError when the port is taken.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise NightshiftError(
                f"port {port} of {HOST} is taken. If a Prefect server uses it, set PREFECT_API_URL to it and run "
                "`python -m infra.bootstrap`. Otherwise choose another port: nightshift up --port 4300"
            ) from error
    arguments = ("server", "start", "--host", HOST, "--port", str(port))
    return spawn(folder / "server.log", environment, "flows.prefect_server", *arguments)


def start_worker(folder: Path, environment: Mapping[str, str]) -> int:
    """Start the worker and return its process id."""
    arguments = ("worker", "start", "--pool", "nightshift", "--type", "process")
    return spawn(folder / "worker.log", environment, "flows.prefect_worker", *arguments)


def _start_watchdog(home: Path, environment: Mapping[str, str], grace: timedelta) -> int:
    arguments = (str(home.absolute()), str(grace.total_seconds()))
    return spawn(prefect_folder(home) / "watchdog.log", environment, "flows.watchdog", *arguments)


def _environment(home: Path, url: str, settings_file: Path | None, *, shared: bool) -> dict[str, str]:
    """Return the environment of the server, worker, and watchdog.

    If collections share the server, each of its deployments sets NIGHTSHIFT_SETTINGS and NIGHTSHIFT_HOME.
    """
    environment = {
        **SERVER_DEFAULTS,
        **os.environ,
        **({"NIGHTSHIFT_SETTINGS": str(settings_file.absolute())} if settings_file else {}),
        "NIGHTSHIFT_HOME": str(home.absolute()),
        "PREFECT_HOME": str(prefect_folder(home)),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_AUTH_STRING": login(home),
        "PREFECT_API_AUTH_STRING": login(home),
    }
    of_one = ("NIGHTSHIFT_SETTINGS", "NIGHTSHIFT_HOME") if shared else ()
    return {name: value for name, value in environment.items() if name not in of_one}


def _bootstrap(
    environment: Mapping[str, str], deployments: Path | None, collections: Sequence[Collection], nights: int
) -> None:
    options = [
        "--remove-others",
        "--nights",
        str(nights),
        *(["--deployments", str(deployments)] if deployments else []),
    ]
    options += [option for collection in collections for option in ("--settings", str(collection.settings_file))]
    command = [sys.executable, "-m", "infra.bootstrap", *options]
    done = subprocess.run(command, env=dict(environment), capture_output=True, text=True)  # noqa: S603
    if done.returncode != 0:
        raise NightshiftError(f"the deployments could not be created:\n{done.stdout}{done.stderr}")
