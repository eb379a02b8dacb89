"""Scheduled nights start automatically, and the watchdog reports nights that do not start."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import yaml
from operated_server import Operated
from postgres_servers import postgres_server
from prefect_servers import serving_prefect

from flows import local_prefect
from flows.running import Running
from tasks.core.base.errors import NightshiftError

Operating = Callable[..., AbstractContextManager[Operated]]
Environment = dict[str, str]

INTERVAL = 10  # seconds between scheduled nights


@pytest.fixture
def frequent_schedule(tmp_path: Path, environment: Environment) -> Path:
    """Copy the deployments with a night every few seconds, and without drift checks."""
    file = yaml.safe_load((Path(__file__).parents[2] / "infra" / "prefect.yaml").read_text())
    for deployment in file["deployments"]:
        deployment.pop("schedules", None)
        if deployment["name"] == "nightly":
            deployment["schedules"] = [{"slug": "nightly", "interval": INTERVAL, "parameters": {"reason": "schedule"}}]
    (tmp_path / "often.yaml").write_text(yaml.safe_dump(file))
    environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    return tmp_path / "often.yaml"


def finished_nights(up: Operated) -> list[str]:
    """Return the final states of scheduled nights."""
    return [run["state"]["name"] for run in up.runs("nightly") if run["auto_scheduled"] and run["end_time"]]


def reported(up: Operated) -> list[str]:
    """Return the times of runs that the watchdog reported as missing."""
    file = up.folder / "missing.json"
    return [name.partition(" ")[2] for name in json.loads(file.read_text())] if file.exists() else []


@pytest.mark.usefixtures("served")
def test_a_scheduled_night_starts_automatically_and_a_missing_night_is_reported(
    operated: Operating,
    frequent_schedule: Path,
    nightshift: Callable[..., subprocess.CompletedProcess[str]],
    alerts: tuple[str, list[dict[str, str]]],
) -> None:
    with operated("--deployments", str(frequent_schedule), "--grace", "0.2") as up:
        assert "next night: today" in up.output
        assert "next drift check: no schedule" in up.output
        up.until(lambda: bool(finished_nights(up)), "a scheduled night")
        assert set(finished_nights(up)) == {"Skipped"}
        for run in up.runs("nightly"):
            if run["end_time"]:
                time = datetime.fromisoformat(run["expected_start_time"])
                assert run["name"] == f"nightly-{time:%Y-%m-%d-%H%M}-schedule"  # also if the worker starts it early
        checks = nightshift("doctor").stdout
        well = {line.split()[1] for line in checks.splitlines() if line.startswith("ok")}
        assert {"prefect", "server", "worker", "schedule", "watchdog", "logs"} <= well, checks

        up.pause_worker()
        paused = datetime.now(UTC).isoformat()
        up.until(lambda: max(reported(up), default="") > paused, "the report of a due run that does not start")
        up.until(lambda: bool(alerts[1]), "an alert about the missing run")
        assert alerts[1][-1]["subject"] == "Nightshift: no scheduled run of nightly"


@pytest.mark.usefixtures("served")
@pytest.mark.slow
def test_a_scheduled_night_starts_automatically_on_postgresql(
    operated: Operating, frequent_schedule: Path, environment: Environment
) -> None:
    with TemporaryDirectory() as folder, postgres_server(Path(folder) / "postgres") as (address, password):
        host = address.rpartition("@")[2]
        environment |= {
            "PREFECT_API_DATABASE_DRIVER": "postgresql+asyncpg",
            "PREFECT_API_DATABASE_HOST": host.partition(":")[0],
            "PREFECT_API_DATABASE_PORT": host.partition(":")[2].partition("/")[0],
            "PREFECT_API_DATABASE_NAME": "postgres",
            "PREFECT_API_DATABASE_USER": "nightshift",
            "PREFECT_API_DATABASE_PASSWORD": password,
        }
        with operated("--deployments", str(frequent_schedule)) as up:
            up.until(lambda: bool(finished_nights(up)), "a scheduled night")
            assert set(finished_nights(up)) == {"Skipped"}
            assert not list(up.folder.glob("*.db"))  # PostgreSQL scheduled the run


@pytest.mark.slow
def test_up_fails_when_the_server_schedules_no_run(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Path(environment["NIGHTSHIFT_HOME"])
    home.mkdir()
    with serving_prefect(home / "prefect", PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED="false") as url:
        bootstrap = [sys.executable, "-m", "infra.bootstrap"]
        subprocess.run(bootstrap, env={**environment, "PREFECT_API_URL": url}, check=True, capture_output=True)
        monkeypatch.setattr(local_prefect, "SCHEDULED_WITHIN", 2)
        running = Running(url=url.removesuffix("/api"), server=0, worker=0)
        with pytest.raises(NightshiftError, match=r"scheduled no run of nightly, watch-drift .*\n.*no errors"):
            local_prefect.wait_until_scheduled(home, running)
