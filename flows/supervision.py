"""Repairs by the watchdog of `nightshift up`: restart a dead server or worker, and close runs of dead processes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flows.local_prefect import (
    api_of,
    prefect_folder,
    running,
    save_running,
    start_server,
    start_worker,
    started,
)
from flows.prefect_api import PrefectApi
from flows.prefect_processes import lives
from flows.running import Running
from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.files import exclusive

RESTARTS = 3  # per process and hour
ALIVE = ["RUNNING", "CANCELLING", "PENDING"]


class Event(NamedTuple):
    """Alert text: what happened, and what the watchdog did."""

    subject: str
    body: str


class Supervisor:
    """Restarts dead processes, and sets their unfinished runs to Crashed on the server."""

    def __init__(self, home: Path, log: Callable[[str], None]) -> None:
        self.home, self.log = home, log
        self.restarts: dict[str, list[float]] = {"server": [], "worker": []}
        self.abandoned: set[str] = set()

    def supervise(self) -> list[Event]:
        """Restart a dead server or worker and close runs of dead processes; return an event for each restart."""
        events: list[Event] = []
        with exclusive(prefect_folder(self.home) / "up.lock"):
            known = started(self.home)
            if known is None or not known.watchdog:
                return []  # `nightshift down` stopped everything, or `nightshift up` has not finished
            for name in ("server", "worker"):
                if not lives(getattr(known, name)):
                    event, known = self._restart(name, known)
                    events += event
        if (server := running(self.home)) is not None:
            self._close_dead_runs(api_of(self.home, server))
        return events

    def _restart(self, name: str, known: Running) -> tuple[list[Event], Running]:
        recent = [when for when in self.restarts[name] if when > time.monotonic() - 3600]
        log = prefect_folder(self.home) / f"{name}.log"
        if len(recent) >= RESTARTS:
            if name in self.abandoned:
                return [], known
            self.abandoned.add(name)
            body = f"It stopped {RESTARTS} times in an hour. Read {log}. Then run: nightshift down, nightshift up."
            return [Event(f"the Prefect {name} keeps stopping", body)], known
        self.restarts[name] = [*recent, time.monotonic()]
        try:
            process = self._start(name, known)
        except NightshiftError as error:
            return [Event(f"the Prefect {name} is dead", str(error))], known
        known = known.model_copy(update={name: process})
        save_running(self.home, known)
        body = f"The watchdog restarted it. {log} may show why it stopped."
        return [Event(f"the Prefect {name} was dead", body)], known

    def _start(self, name: str, known: Running) -> int:
        folder = prefect_folder(self.home)
        if name == "server":
            return start_server(folder, os.environ, known.port)
        return start_worker(folder, os.environ)

    def _close_dead_runs(self, api: PrefectApi) -> None:
        """Set runs whose process is gone to Crashed, which frees their concurrency slots."""
        try:
            for run in api.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ALIVE}}}}):
                process = str(run["infrastructure_pid"] or "")
                if process.isdigit() and not lives(int(process)):
                    self._crash(api, run)
        except Unreachable:
            return  # the server is starting or busy; the next check tries again

    def _crash(self, api: PrefectApi, run: dict[str, Any]) -> None:
        # Read the state again now that the process is gone: it may have reported its end just before.
        if api.get(f"flow_runs/{run['id']}")["state_type"] not in ALIVE:
            return
        message = (
            "The process of this run ended without reporting a result. `nightshift report` shows the outcome, if any."
        )
        state = {"type": "CRASHED", "name": "Crashed", "message": message}
        api.post(f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        self.log(f"Set run {run['name']} to Crashed: its process {run['infrastructure_pid']} is gone")
