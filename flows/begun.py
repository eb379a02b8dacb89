"""Start times of flow runs, stored in home so the watchdog can read them without a Prefect server."""

from __future__ import annotations

import json
import os
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from flows.prefect_processes import lives
from tasks.core.base.files import exclusive, write_json
from tasks.core.base.settings_file import load_settings

if TYPE_CHECKING:
    from prefect import Flow
    from prefect.client.schemas.objects import FlowRun, State

KEPT = 100  # newest starts stored per flow


class Begun(BaseModel):
    """One run that started."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    run: str  # run id on the Prefect server
    at: datetime
    scheduled: datetime | None = None  # scheduled start; None for a run started manually or by an event
    process: int
    host: str


def record_begin(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Record the start of a run. The `on_running` hook of every flow."""
    settings_file = flow_run.parameters.get("settings_file")
    home = load_settings(Path(settings_file) if settings_file else None).home
    begun = Begun(
        run=str(flow_run.id),
        at=datetime.now(UTC),
        scheduled=flow_run.expected_start_time if flow_run.auto_scheduled else None,
        process=os.getpid(),
        host=socket.gethostname(),
    )
    file = _file(home, flow.name)
    with exclusive(file.with_suffix(".lock")):
        runs = [*read_begun(home, flow.name), begun][-KEPT:]
        write_json(file, [run.model_dump(mode="json") for run in runs])


def read_begun(home: Path, flow: str) -> list[Begun]:
    """Read the last recorded starts of `flow`, oldest first. Empty when the record is missing or damaged."""
    try:
        return [Begun(**run) for run in json.loads(_file(home, flow).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def running_night(home: Path) -> Begun | None:
    """Return the start of the night that runs on this machine, or waits for another one. None without a night."""
    here = socket.gethostname()
    return next((run for run in read_begun(home, "nightly")[-1:] if run.host == here and lives(run.process)), None)


def _file(home: Path, flow: str) -> Path:
    return home / "begun" / f"{flow}.json"
