"""What the watchdog of `nightshift up` repairs: a dead server or worker, and runs whose process is gone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from flows.local_prefect import (
    Running,
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
from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.base.files import exclusive

RESTARTS = 3  # of one process, in an hour
ALIVE = ["RUNNING", "CANCELLING", "PENDING"]


class Event(NamedTuple):
    """One thing that happened, for a person: what, and what was done."""

    subject: str
    body: str


class Supervisor:
    """Restarts what died, and ends what the dead left on the server's record."""

    def __init__(self, home: Path, log: Callable[[str], None]) -> None:
        self.home, self.log = home, log
        self.restarts: dict[str, list[float]] = {"server": [], "worker": []}
        self.gave_up: set[str] = set()

    def supervise(self) -> list[Event]:
        """Restart a dead server or worker, close the runs that died; report what was done."""
        events: list[Event] = []
        with exclusive(prefect_folder(self.home) / "up.lock"):
            known = started(self.home)
            if known is None or not known.watchdog:
                return []  # `nightshift down` ended it all, or `nightshift up` is still at it
            for name in ("server", "worker"):
                if not lives(getattr(known, name)):
                    event, known = self._restart(name, known)
                    events += event
        if (now := running(self.home)) is not None:
            self._close_dead_runs(api_of(self.home, now))
        return events

    def _restart(self, name: str, known: Running) -> tuple[list[Event], Running]:
        recent = [when for when in self.restarts[name] if when > time.monotonic() - 3600]
        log = prefect_folder(self.home) / f"{name}.log"
        if len(recent) >= RESTARTS:
            if name in self.gave_up:
                return [], known
            self.gave_up.add(name)
            words = f"It ended {RESTARTS} times in an hour. See {log}; then: nightshift down, nightshift up."
            return [Event(f"the Prefect {name} does not stay up", words)], known
        self.restarts[name] = [*recent, time.monotonic()]
        try:
            process = self._start(name, known)
        except NightshiftError as error:
            return [Event(f"the Prefect {name} is dead", str(error))], known
        known = known.model_copy(update={name: process})
        save_running(self.home, known)
        words = f"Started it again. Why it ended may be in {log}."
        return [Event(f"the Prefect {name} was dead", words)], known

    def _start(self, name: str, known: Running) -> int:
        folder = prefect_folder(self.home)
        if name == "server":
            return start_server(folder, os.environ, known.port)
        return start_worker(folder, os.environ)

    def _close_dead_runs(self, api: PrefectApi) -> None:
        """Give the slots of dead runs back: set runs whose process is gone to Crashed."""
        try:
            for run in api.post("flow_runs/filter", {"flow_runs": {"state": {"type": {"any_": ALIVE}}}}):
                process = str(run["infrastructure_pid"] or "")
                if process.isdigit() and not lives(int(process)):
                    self._crash(api, run)
        except Unreachable:
            return  # it starts, or it is busy: the next check comes soon

    def _crash(self, api: PrefectApi, run: dict[str, Any]) -> None:
        # Asked again now that its process is gone: it may have reported its end just before.
        if api.get(f"flow_runs/{run['id']}")["state_type"] not in ALIVE:
            return
        words = "The process of this run ended without reporting how. `nightshift report` has the outcome, if any."
        state = {"type": "CRASHED", "name": "Crashed", "message": words}
        api.post(f"flow_runs/{run['id']}/set_state", {"state": state, "force": True})
        self.log(f"run {run['name']} is set to Crashed: its process {run['infrastructure_pid']} is gone")
