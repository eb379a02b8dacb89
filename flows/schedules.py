"""Active schedules of the deployments: when runs are due, and which runs the Prefect server has scheduled."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from flows.collections import collection_of, tag_of
from flows.prefect_api import PrefectApi
from tasks.core.base.files import write_json

TAG = "nightshift"  # tag of every deployment in infra/prefect.yaml
LOOK_AHEAD = timedelta(days=8)  # of the next run of a weekly schedule
DISPLAY_NAMES = {"nightly": "night", "watch-drift": "drift check", "retrain-on-drift": "retrain"}


class Schedule(BaseModel):
    """One active schedule of a deployment."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    deployment: str
    flow: str
    definition: dict[str, Any]  # cron, interval, or rrule, as stored on the Prefect server
    since: datetime  # start of the schedule; no run is due earlier

    def due(self, after: datetime, until: datetime) -> list[datetime]:
        """List the times after `after` and up to `until` at which a run should start, oldest first.

        Uses Prefect's calendar classes and needs no server.
        """
        from prefect.server.schemas.schedules import SCHEDULE_TYPES
        from pydantic import TypeAdapter

        calendar: Any = TypeAdapter(SCHEDULE_TYPES).validate_python(self.definition)
        first = max(after, self.since)
        times = asyncio.run(calendar.get_dates(start=first, end=until))
        return sorted(datetime.fromtimestamp(time.timestamp(), UTC) for time in times if first < time <= until)


def read_schedules(api: PrefectApi, collection: str = "") -> list[Schedule]:
    """Read the active schedules of all deployments that are not paused.

    Args:
        api: client of the Prefect server.
        collection: one of several collections on the server. If it has no deployments, or by default: the deployments
            of the collection that runs alone.

    Raises Unreachable when the server does not answer.
    """
    now = datetime.now(UTC)
    flows = {flow["id"]: flow["name"] for flow in api.post("flows/filter", {})}
    query = {"deployments": {"tags": {"all_": [TAG]}}, "sort": "NAME_ASC"}
    deployments = api.post("deployments/filter", query)
    named = [deployment for deployment in deployments if collection_of(deployment["tags"]) == collection]
    return [
        Schedule(
            id=schedule["id"],
            deployment=deployment["name"],
            flow=flows[deployment["flow_id"]],
            definition=schedule["schedule"],
            since=now,
        )
        for deployment in named or [deployment for deployment in deployments if not collection_of(deployment["tags"])]
        for schedule in deployment["schedules"]
        if schedule["active"] and not deployment["paused"]
    ]


def keep_schedules(home: Path, schedules: Sequence[Schedule]) -> list[Schedule]:
    """Store the schedules in home, for use without the server. An unchanged schedule keeps its `since`."""
    known = {(schedule.id, json.dumps(schedule.definition)): schedule for schedule in kept_schedules(home)}
    merged = [known.get((schedule.id, json.dumps(schedule.definition)), schedule) for schedule in schedules]
    if merged != kept_schedules(home):
        write_json(_file(home), [schedule.model_dump(mode="json") for schedule in merged])
    return merged


def kept_schedules(home: Path) -> list[Schedule]:
    """Read the schedules that `keep_schedules` stored. Empty when there are none."""
    try:
        return [Schedule(**schedule) for schedule in json.loads(_file(home).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def forget_schedules(home: Path) -> None:
    """Delete the stored schedules. No run is due until schedules are stored again."""
    _file(home).unlink(missing_ok=True)


def next_runs(api: PrefectApi, schedules: Sequence[Schedule]) -> dict[str, datetime | None]:
    """Return the start time of the next scheduled run for each schedule id, or None without a run.

    Raises Unreachable when the server does not answer.
    """
    now = datetime.now(UTC)
    planned: dict[str, datetime | None] = {schedule.id: None for schedule in schedules}
    for schedule in schedules:
        query = {
            "flow_runs": {
                "state": {"type": {"any_": ["SCHEDULED", "PENDING", "RUNNING"]}},
                "expected_start_time": {"after_": (now - timedelta(minutes=1)).isoformat()},
                "tags": {"all_": ["auto-scheduled"]},
            },
            "deployments": {"name": {"any_": [schedule.deployment]}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        times = [
            datetime.fromisoformat(run["expected_start_time"])
            for run in api.post("flow_runs/filter", query)
            if (run["created_by"] or {}).get("id") == schedule.id
        ]
        planned[schedule.id] = next((time for time in times if time > now), times[0] if times else None)
    return planned


def next_due(home: Path, flow: str, now: datetime) -> datetime | None:
    """Return when the next run of a flow is due by the stored schedules, within eight days. Needs no server."""
    due = [schedule.due(now, now + LOOK_AHEAD) for schedule in kept_schedules(home) if schedule.flow == flow]
    return min((times[0] for times in due if times), default=None)


def late_runs(api: PrefectApi, grace: timedelta, collection: str = "") -> list[dict[str, Any]]:
    """List the scheduled runs, of one of several collections if it is named, that no worker picked up within `grace`.

    Raises Unreachable when the server does not answer.
    """
    query = {
        "flow_runs": {
            "state": {"type": {"any_": ["SCHEDULED"]}, "name": {"not_any_": ["AwaitingConcurrencySlot"]}},
            "expected_start_time": {"before_": (datetime.now(UTC) - grace).isoformat()},
            "tags": {"all_": [TAG, *filter(None, [tag_of(collection)])]},
        }
    }
    runs: list[dict[str, Any]] = api.post("flow_runs/filter", query)
    return runs


def display_name(deployment: str) -> str:
    """Return a short name for a deployment's runs, such as “drift check”, or “docs drift check” for a collection."""
    for name, shown in DISPLAY_NAMES.items():
        if deployment == name or deployment.startswith(f"{name}-"):
            return f"{deployment.removeprefix(name).removeprefix('-')} {shown}".strip()
    return deployment


def display_time(time: datetime, now: datetime) -> str:
    """Format a future time: today 17:30 UTC, tomorrow 02:00 UTC, Sat 30 Nov 02:00 UTC."""
    days = (time.astimezone(UTC).date() - now.astimezone(UTC).date()).days
    day = {0: "today", 1: "tomorrow"}.get(days, f"{time.astimezone(UTC):%a %d %b}")
    return f"{day} {time.astimezone(UTC):%H:%M} UTC"


def _file(home: Path) -> Path:
    return home / "prefect" / "schedules.json"
