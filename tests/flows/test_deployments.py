"""Deployments in the file, and on a real server."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "prefect.yaml"
Environment = dict[str, str]

pytestmark = pytest.mark.xdist_group("prefect")


@pytest.fixture(scope="module")
def deployments() -> dict[str, Any]:
    return {deployment["name"]: deployment for deployment in yaml.safe_load(FILE.read_text())["deployments"]}


def test_every_parameter_of_every_deployment_has_a_description(deployments: dict[str, Any]) -> None:
    assert set(deployments) == {"nightly", "watch-drift", "retrain-on-drift", "rollback", "prune", "reindex"}
    for deployment in deployments.values():
        for name, field in parameter_schema(import_object(deployment["entrypoint"])).properties.items():
            assert field.get("description"), f"{deployment['name']}: {name}"


def test_schedules_have_a_slug_and_a_time_zone(deployments: dict[str, Any]) -> None:
    for deployment in deployments.values():
        assert all({"slug", "cron", "timezone"} <= set(schedule) for schedule in deployment.get("schedules", []))


def test_concurrent_runs_wait_and_none_is_cancelled(deployments: dict[str, Any]) -> None:
    waiting = {name for name, deployment in deployments.items() if deployment.get("concurrency_limit")}
    assert waiting == set(deployments) - {"rollback"}  # a rollback does not wait for a night
    assert all(deployments[name]["concurrency_limit"]["collision_strategy"] == "ENQUEUE" for name in waiting)


def test_deployment_files_contain_no_secret() -> None:
    text = "\n".join(line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#")).lower()
    assert not [word for word in ("token", "password", "secret", "api_key") if word in text]


def test_a_repeated_bootstrap_creates_no_duplicates(environment: Environment, prefect_server: str) -> None:
    with_alerts = {**environment, "NIGHTSHIFT_ALERT_URL": "http://127.0.0.1:9/nobody"}
    for _ in range(2):
        command = [sys.executable, "-m", "infra.bootstrap"]
        done = subprocess.run(command, env=with_alerts, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stdout + done.stderr
        automations = [row["name"] for row in _request(prefect_server, "automations/filter")]
        assert sorted(automations) == sorted(set(automations))
        assert len(automations) == 6
        deployed = _request(prefect_server, "deployments/filter")
        assert len(deployed) == 6
        assert {row["work_pool_name"] for row in deployed} == {"nightshift"}
        schedules = {row["name"]: [plan["slug"] for plan in row["schedules"]] for row in deployed if row["schedules"]}
        assert schedules == {"nightly": ["nightly"], "watch-drift": ["hourly"]}
        limits = {row["name"]: row["limit"] for row in _request(prefect_server, "v2/concurrency_limits/filter")}
        assert limits["nightshift-publishing"] == 1


def _request(server: str, path: str) -> Any:
    request = urllib.request.Request(f"{server}/{path}", b"{}", {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)
