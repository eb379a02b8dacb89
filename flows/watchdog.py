"""Watchdog of scheduled runs. It runs outside Prefect, so it also sends alerts when Prefect is broken or gone.

It computes from the schedules stored in home when each run should have started, and compares these times with the
start times that runs record in home (flows/begun.py). `nightshift up` starts it as a process, which also restarts a
dead server or worker. `nightshift watchdog` runs one check, for cron.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from flows.alerts import send_alert
from flows.begun import read_begun
from flows.local_prefect import api_of, running, started
from flows.prefect_api import PrefectApi
from flows.prefect_processes import lives
from flows.schedules import Schedule, display_time, keep_schedules, kept_schedules, read_schedules
from flows.server_log import outlive_full_disk
from flows.status_page import StatusPage
from flows.supervision import Supervisor
from tasks.core.base.errors import Unreachable
from tasks.core.base.files import exclusive, write_json

LOOK_BACK = timedelta(days=2)  # missing runs that are older are not reported
INTERVAL = 10.0  # seconds between two checks


class Alert(NamedTuple):
    """Subject and body of an alert."""

    subject: str
    body: str


def missing_runs(home: Path, grace: timedelta, now: datetime) -> dict[str, list[datetime]]:
    """List, for each deployment, the times of scheduled runs that did not start within `grace`.

    A run is not missing while the previous run of its flow is still in progress on this machine.
    """
    missing: dict[str, list[datetime]] = {}
    for schedule in kept_schedules(home):
        due = schedule.due(now - LOOK_BACK, now - grace)
        if not due:
            continue
        begun = read_begun(home, schedule.flow)
        times = {run.scheduled for run in begun if run.scheduled}
        here = socket.gethostname()
        busy = any(run.host == here and lives(run.process) for run in begun)
        absent = [when for when in due if when not in times and not busy]
        if absent:
            missing.setdefault(schedule.deployment, []).extend(absent)
    return missing


def refresh_schedules(home: Path, api: PrefectApi | None, collection: str = "") -> list[Schedule]:
    """Store the server's current schedules and return them. If the server does not answer, return the stored ones."""
    try:
        return keep_schedules(home, read_schedules(api, collection)) if api else kept_schedules(home)
    except Unreachable:
        return kept_schedules(home)


def check_once(home: Path, grace: timedelta, api: PrefectApi | None, collection: str = "") -> list[Alert]:
    """Return an alert for each missing run that was not reported before."""
    now = datetime.now(UTC)
    refresh_schedules(home, api, collection)
    missing = missing_runs(home, grace, now)
    with exclusive(_reported_file(home).with_name("watchdog.lock")):
        reported = _reported(home)
        alerts = []
        for deployment, times in missing.items():
            unreported = [when for when in times if f"{deployment} {when.isoformat()}" not in reported]
            if unreported:
                alerts.append(_missing_alert(deployment, unreported, grace, now, api))
        names = [f"{deployment} {when.isoformat()}" for deployment, times in missing.items() for when in times]
        if set(names) != reported:
            write_json(_reported_file(home), sorted(names))
    return alerts


def send_alerts(alerts: list[Alert]) -> None:
    """Log each alert, and send it to the webhook at NIGHTSHIFT_ALERT_URL, if set."""
    url = os.environ.get("NIGHTSHIFT_ALERT_URL", "")
    for alert in alerts:
        _log(f"{alert.subject}. {alert.body}")
        try:
            if url:
                send_alert(url, *alert)
        except Unreachable as error:
            _log(str(error))


def _missing_alert(
    deployment: str, times: list[datetime], grace: timedelta, now: datetime, api: PrefectApi | None
) -> Alert:
    due = f"due {display_time(max(times), now)} and did not start within {grace.total_seconds() / 60:g} minutes"
    body = f"{len(times)} runs are missing. The last was {due}. " if len(times) > 1 else f"The run was {due}. "
    body += "The Prefect server does not answer. " if api is not None and not api.answers() else ""
    return Alert(f"Nightshift: no scheduled run of {deployment}", f"{body}Run `nightshift doctor` to see why")


def _reported(home: Path) -> set[str]:
    try:
        return set(json.loads(_reported_file(home).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return set()


def _reported_file(home: Path) -> Path:
    return home / "prefect" / "missing.json"


def _log(message: str) -> None:
    sys.stdout.write(f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC  {message}\n")
    sys.stdout.flush()


def watch(home: Path, grace: timedelta) -> None:
    """Check periodically until `nightshift down` stops this process."""
    supervisor, page = Supervisor(home, _log), StatusPage(home)
    _log(f"Watching. A scheduled run may start {grace.total_seconds() / 60:g} minutes late")
    while started(home) is not None:
        try:
            _check(home, grace, supervisor)
            page.refresh()
        except Exception as error:  # a full disk or a damaged file must not stop the watchdog
            _log(f"Check failed: {type(error).__name__}: {error}")
        time.sleep(min(INTERVAL, max(1.0, grace.total_seconds() / 2)))


def _check(home: Path, grace: timedelta, supervisor: Supervisor) -> None:
    send_alerts([Alert(f"Nightshift: {event.subject}", event.body) for event in supervisor.supervise()])
    server = running(home)
    api = api_of(home, server) if server else None
    for collection in known.on(home) if (known := started(home)) else ():
        send_alerts(check_once(collection.home, grace, api, collection.name))


if __name__ == "__main__":
    outlive_full_disk()
    watch(Path(sys.argv[1]), timedelta(seconds=float(sys.argv[2])))
