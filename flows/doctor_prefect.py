"""Checks of the local server that `nightshift up` started, for `nightshift doctor`."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from flows.local_prefect import GRACE, api_of, prefect_folder, started
from flows.prefect_processes import lives
from flows.running import Running
from flows.schedules import display_name, display_time, late_runs, next_runs, read_schedules
from flows.server_log import read_errors
from flows.watchdog import missing_runs
from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import Settings

HEARTBEAT = timedelta(seconds=90)  # oldest accepted heartbeat; a worker sends one every 30 seconds
Probe = tuple[str, Callable[[Settings], str], str]


def probes(settings: Settings) -> list[Probe]:
    """List the checks of the local server. Empty when `nightshift up` started no server on this home."""
    if started(settings.home) is None:
        return []
    return [
        ("server", _server, "start it again: nightshift up"),
        ("worker", _worker, "see worker.log; start it again: nightshift up"),
        (
            "schedule",
            _schedule,
            "see server.log; install the versions in infra/constraints.txt; then: nightshift down, nightshift up",
        ),
        ("runs", _runs, "see worker.log and the run in the UI; run the night now: nightshift run"),
        ("watchdog", _watchdog, "start it again: nightshift up"),
        ("logs", _logs, "read the lines around the errors; then: nightshift down, nightshift up"),
    ]


def _known(settings: Settings) -> Running:
    known = started(settings.home)
    assert known is not None
    return known


def _server(settings: Settings) -> str:
    known = _known(settings)
    if not lives(known.server):
        raise NightshiftError(f"the server that `nightshift up` started is dead (process {known.server})")
    api_of(settings.home, known).get("health")
    return f"{known.url} answers"


def _worker(settings: Settings) -> str:
    known = _known(settings)
    if not lives(known.worker):
        raise NightshiftError(f"the worker is dead (process {known.worker}): no scheduled run starts")
    workers = api_of(settings.home, known).post("work_pools/nightshift/workers/filter", {})
    newest = max((worker["last_heartbeat_time"] or "" for worker in workers), default="")
    if not newest:
        raise NightshiftError("the worker has sent no heartbeat yet")
    age = datetime.now(UTC) - datetime.fromisoformat(newest)
    if age > HEARTBEAT:
        raise NightshiftError(f"the worker's last heartbeat is {age.total_seconds():.0f} seconds old")
    return f"runs; last heartbeat {age.total_seconds():.0f} seconds ago"


def _schedule(settings: Settings) -> str:
    known, now = _known(settings), datetime.now(UTC)
    api = api_of(settings.home, known)
    schedules = read_schedules(api, known.collection_on(settings.home).name)
    planned = next_runs(api, schedules)
    unplanned = [schedule.deployment for schedule in schedules if not planned[schedule.id]]
    if unplanned:
        raise NightshiftError(f"the server has scheduled no run of {', '.join(unplanned)}")
    starts = [
        f"next {display_name(schedule.deployment)} {display_time(when, now)}"
        for schedule in schedules
        if (when := planned[schedule.id])
    ]
    return ", ".join(starts) or "no deployment has an active schedule"


def _runs(settings: Settings) -> str:
    missing = missing_runs(settings.home, GRACE, datetime.now(UTC))
    if missing:
        runs = [f"{len(times)} of {name}, last {max(times):%d %b %H:%M} UTC" for name, times in missing.items()]
        raise NightshiftError(f"scheduled runs did not start in the last two days: {'; '.join(runs)}")
    known = _known(settings)
    late = late_runs(api_of(settings.home, known), GRACE, known.collection_on(settings.home).name)
    if late:
        names = ", ".join(run["name"] for run in late[:5])
        raise NightshiftError(f"{len(late)} runs are late: no worker picked them up ({names})")
    return "every scheduled run started on time"


def _watchdog(settings: Settings) -> str:
    known = _known(settings)
    if not lives(known.watchdog):
        raise NightshiftError("the watchdog is dead: missing scheduled runs are not reported")
    return f"runs; its log: {prefect_folder(settings.home) / 'watchdog.log'}"


def _logs(settings: Settings) -> str:
    errors = [
        f"{name}: {error}"
        for name in ("server.log", "worker.log")
        for error in read_errors(prefect_folder(settings.home) / name)
    ]
    if errors:
        raise NightshiftError("errors since the last start: " + "; ".join(errors[:5]))
    return "no error in server.log and worker.log since the last start"
