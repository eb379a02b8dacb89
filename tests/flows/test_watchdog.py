"""The watchdog computes due times, reads start times, and reports each missing run once."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows.begun import Begun
from flows.local_prefect import SERVER_DEFAULTS
from flows.schedules import Schedule, display_time, keep_schedules, kept_schedules
from flows.server_log import mark_start, read_errors
from flows.watchdog import check_once, missing_runs, send_alerts

NOW = datetime(2026, 11, 28, 12, 30, tzinfo=UTC)
GRACE = timedelta(minutes=10)
LONG_AGO = datetime(2026, 1, 1, tzinfo=UTC)


def schedule(since: datetime = LONG_AGO, **definition: object) -> Schedule:
    return Schedule(id="1", deployment="nightly", flow="nightly", definition=definition, since=since)


def record_start(home: Path, *times: datetime, process: int = 0) -> None:
    runs = [Begun(run="r", at=time, scheduled=time, process=process, host=socket.gethostname()) for time in times]
    (home / "begun").mkdir(parents=True, exist_ok=True)
    (home / "begun" / "nightly.json").write_text(json.dumps([run.model_dump(mode="json") for run in runs]))


def test_due_times_follow_the_schedule_across_clock_changes() -> None:
    daily = schedule(cron="0 2 * * *", timezone="Europe/Berlin")
    first, last = datetime(2026, 10, 24, 12, tzinfo=UTC), datetime(2026, 10, 26, 12, tzinfo=UTC)
    assert [time.hour for time in daily.due(first, last)] == [0, 1]  # UTC; summer time ends on the 25th
    anchor = "2026-11-28T12:00:05+00:00"
    often = schedule(interval=60.0, anchor_date=anchor, timezone="UTC").due(NOW - timedelta(minutes=3), NOW)
    assert [time.second for time in often] == [5, 5, 5]
    weekly = schedule(rrule="FREQ=WEEKLY;BYDAY=SA;BYHOUR=3;BYMINUTE=0;BYSECOND=0", timezone="UTC")
    assert weekly.due(NOW - timedelta(days=2), NOW) == [datetime(2026, 11, 28, 3, tzinfo=UTC)]


def test_a_run_that_did_not_start_is_missing_after_the_grace_period(tmp_path: Path) -> None:
    hourly = schedule(cron="0 * * * *", timezone="UTC", since=NOW - timedelta(hours=2))  # due at 11 and at 12
    keep_schedules(tmp_path, [hourly])
    noon = NOW.replace(minute=0)
    eleven = noon - timedelta(hours=1)
    assert missing_runs(tmp_path, GRACE, NOW) == {"nightly": [eleven, noon]}
    assert missing_runs(tmp_path, timedelta(hours=1), NOW) == {"nightly": [eleven]}
    record_start(tmp_path, eleven, noon)
    assert missing_runs(tmp_path, GRACE, NOW) == {}
    record_start(tmp_path, eleven)
    assert missing_runs(tmp_path, GRACE, NOW) == {"nightly": [noon]}
    (tmp_path / "begun" / "nightly.json").write_text("cut off in the mid")
    assert missing_runs(tmp_path, GRACE, NOW) == {"nightly": [eleven, noon]}


def test_a_run_that_waits_for_the_previous_run_is_not_missing(tmp_path: Path) -> None:
    keep_schedules(tmp_path, [schedule(cron="0 * * * *", timezone="UTC", since=NOW - timedelta(minutes=90))])
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code, "prefect"], stdin=subprocess.PIPE) as night:
        record_start(tmp_path, NOW - timedelta(hours=3), process=night.pid)
        assert missing_runs(tmp_path, GRACE, NOW) == {}
        night.communicate()
    assert missing_runs(tmp_path, GRACE, NOW) != {}


def test_an_unchanged_schedule_is_due_from_its_first_sighting(tmp_path: Path) -> None:
    old = schedule(cron="0 * * * *", timezone="UTC")
    keep_schedules(tmp_path, [old])
    keep_schedules(tmp_path, [old.model_copy(update={"since": NOW})])
    assert kept_schedules(tmp_path) == [old]
    changed = schedule(cron="5 * * * *", timezone="UTC", since=NOW)
    keep_schedules(tmp_path, [changed])
    assert kept_schedules(tmp_path) == [changed]


def test_each_missing_run_is_reported_once_to_the_webhook(
    tmp_path: Path, alerts: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_ALERT_URL", alerts[0])
    start = datetime.now(UTC) - timedelta(minutes=30)
    keep_schedules(tmp_path, [schedule(interval=3600.0, anchor_date=start.isoformat(), timezone="UTC")])
    for _ in range(2):
        send_alerts(check_once(tmp_path, GRACE, None))
    (alert,) = alerts[1]
    assert alert["subject"] == "Nightshift: no scheduled run of nightly"
    assert "nightshift doctor" in alert["body"]


def test_the_command_exits_1_while_a_run_is_missing_and_needs_no_server(tmp_path: Path) -> None:
    environment = {**os.environ, "NIGHTSHIFT_HOME": str(tmp_path), "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    command = [sys.executable, "-m", "flows.cli", "watchdog"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "every scheduled run started\n")
    keep_schedules(tmp_path, [schedule(cron="0 * * * *", timezone="UTC")])
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 1
        assert "nightly: " in done.stderr


def test_log_errors_are_grouped_and_counted_from_the_last_start(tmp_path: Path) -> None:
    log = tmp_path / "server.log"
    assert read_errors(log) == []
    log.write_text("02:00:00.000 | ERROR   | prefect - of the process before\n")
    mark_start(log)
    with log.open("a") as file:
        for second in range(3):
            file.write(f"03:00:0{second}.000 | ERROR   | prefect.scheduler - failed for deployment {second}\n")
            file.write("Traceback (most recent call last):\n")
        file.write("03:00:04.000 | WARNING | prefect - only a warning\nERROR:    Application startup failed.\n")
    scheduler, traceback, uvicorn = read_errors(log)
    assert (scheduler.lines, scheduler.time) == (3, "03:00:02")
    assert "deployment 2" in str(scheduler)
    assert traceback.lines == 3
    assert uvicorn.line == "ERROR:    Application startup failed."


def test_future_times_are_formatted_relative_to_today() -> None:
    formatted = [display_time(NOW + timedelta(hours=hours), NOW) for hours in (5, 13.5, 48)]
    assert formatted == ["today 17:30 UTC", "tomorrow 02:00 UTC", "Mon 30 Nov 12:30 UTC"]


def test_leases_survive_a_restart_of_the_server() -> None:
    assert SERVER_DEFAULTS["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"].endswith("filesystem")
