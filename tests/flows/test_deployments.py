"""Deployments in the file, and on a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.utilities.callables import parameter_schema
from prefect.utilities.importtools import import_object
from prefect_servers import query_server
from warm_commands import run_code

from flows.prefect_api import PrefectApi
from flows.schedules import read_schedules

ROOT = Path(__file__).parents[2]
FILE = ROOT / "infra" / "prefect.yaml"
Environment = dict[str, str]


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
    for _ in range(2):
        _bootstrap(environment, "--remove-others")
        automations = {row["name"]: row["actions"] for row in query_server(prefect_server, "automations", {})}
        assert len(query_server(prefect_server, "automations", {})) == len(automations) == 6
        assert "To run it now: nightshift run" in automations["Nightshift: failed or crashed"][0]["body"]
        deployed = query_server(prefect_server, "deployments", {})
        assert len(deployed) == 6
        assert {row["work_pool_name"] for row in deployed} == {"nightshift"}
        schedules = {row["name"]: [plan["slug"] for plan in row["schedules"]] for row in deployed if row["schedules"]}
        assert schedules == {"nightly": ["nightly"], "watch-drift": ["hourly"]}
        limits = {row["name"]: row["limit"] for row in query_server(prefect_server, "v2/concurrency_limits", {})}
        assert limits["nightshift-publishing"] == 1


def test_collections_side_by_side_get_their_own_deployments_alarms_and_limits(
    environment: Environment, prefect_server: str, tmp_path: Path
) -> None:
    files = []
    for name in ("docs", "wiki"):
        files += ["--settings", str(tmp_path / f"{name}.toml")]
        (tmp_path / f"{name}.toml").write_text(f'home = "{name}-home"')
    shared = {name: value for name, value in environment.items() if name != "NIGHTSHIFT_HOME"}
    _bootstrap(shared, "--remove-others", "--nights", "2", *files)
    deployed = {row["name"]: row for row in query_server(prefect_server, "deployments", {})}
    assert len(deployed) == 12
    variables = deployed["nightly-wiki"]["job_variables"]["env"]
    assert variables["NIGHTSHIFT_HOME"] == str(tmp_path / "wiki-home")
    api = PrefectApi(prefect_server)
    assert {schedule.deployment for schedule in read_schedules(api, "wiki")} == {"nightly-wiki", "watch-drift-wiki"}
    assert read_schedules(api) == []
    limits = {row["name"]: row["limit"] for row in query_server(prefect_server, "v2/concurrency_limits", {})}
    assert (limits["nightshift-nights"], limits["nightshift-publishing-docs"]) == (2, 1)
    automations = {row["name"]: row["trigger"] for row in query_server(prefect_server, "automations", {})}
    assert len(automations) == 12
    tags = [spec["prefect.resource.id"] for spec in automations["Nightshift: overdue (docs)"]["match_related"]]
    assert tags == ["prefect.tag.release", "prefect.tag.collection:docs"]
    _bootstrap(environment, "--remove-others")
    assert len(query_server(prefect_server, "deployments", {})) == 6
    assert len(query_server(prefect_server, "automations", {})) == 6


def _bootstrap(environment: Environment, *options: str) -> None:
    with_alerts = {**environment, "NIGHTSHIFT_ALERT_URL": "http://127.0.0.1:9/nobody"}
    program = "import runpy; runpy.run_module('infra.bootstrap', run_name='__main__')"
    done = run_code(with_alerts, program, *options, folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
