"""Collections side by side: one server, deployments and limits per collection, and two scheduled nights each."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from operated_server import Operated, operating
from things_and_traits import SMALL_NIGHT, write_collection
from warm_commands import run_command

from flows.collections import Collection, read_collections
from flows.local_prefect import prefect_folder, start
from flows.running import Running, link_to_host
from infra.side_by_side import deployments_of
from tasks.core.base.errors import BadUsage, NightshiftError
from tasks.core.base.files import write_json

FILE = Path(__file__).parents[2] / "infra" / "prefect.yaml"
SETTINGS = """
home = "{name}-home"
[data]
format = "beir"
path = "{name}"
[encoder]
model = "{model}"
passage_tokens = 24
"""
INTERVAL = 20  # seconds between scheduled nights of a collection


def write_settings(folder: Path, name: str, model: object = "model") -> Path:
    file = folder / f"{name}.toml"
    file.write_text(SETTINGS.format(name=name, model=model) + SMALL_NIGHT)
    return file


def test_a_collection_is_named_after_its_file_and_shares_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docs, wiki = write_settings(tmp_path, "docs"), write_settings(tmp_path, "wiki")
    assert [(known.name, known.home) for known in read_collections([docs, wiki])] == [
        ("docs", tmp_path / "docs-home"),
        ("wiki", tmp_path / "wiki-home"),
    ]
    (tmp_path / "other").mkdir()
    for files, message in (
        ([docs, write_settings(tmp_path / "other", "docs")], "both have the name docs"),
        ([docs, write_settings(tmp_path, "a b")], "its name names the collection"),
    ):
        with pytest.raises(BadUsage, match=message):
            read_collections(files)
    monkeypatch.setenv("NIGHTSHIFT_MILVUS__URI", "http://milvus:19530")
    with pytest.raises(BadUsage, match="both have the Milvus alias nightshift at http://milvus:19530"):
        read_collections([docs, wiki])
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    with pytest.raises(BadUsage, match=r"both have home .*NIGHTSHIFT_… variables apply to all"):
        read_collections([docs, wiki])


def test_each_collection_has_its_own_deployments_settings_and_triggers(tmp_path: Path) -> None:
    file = yaml.safe_load(FILE.read_text())
    collections = [Collection(name=name, settings_file=tmp_path / name, home=tmp_path) for name in ("docs", "wiki")]
    expanded = {row["name"]: row for row in deployments_of(file, collections)["deployments"]}
    assert set(expanded) == {f"{row['name']}-{name}" for row in file["deployments"] for name in ("docs", "wiki")}
    for name, deployment in expanded.items():
        collection = name.rpartition("-")[2]
        assert f"collection:{collection}" in deployment["tags"]
        variables = deployment["work_pool"]["job_variables"]["env"]
        assert variables["NIGHTSHIFT_SETTINGS"] == str(tmp_path / collection)
        assert variables["DO_NOT_TRACK"] == "1"
    (trigger,) = expanded["retrain-on-drift-wiki"]["triggers"]
    assert trigger["match_related"]["prefect.resource.id"] == "prefect.tag.collection:wiki"
    assert file == yaml.safe_load(FILE.read_text())


def test_a_running_server_keeps_its_collections(tmp_path: Path) -> None:
    docs, wiki = (Collection(name=name, home=tmp_path / name) for name in ("docs", "wiki"))
    assert prefect_folder(wiki.home) == tmp_path / "wiki" / "prefect"
    link_to_host(wiki.home, docs.home)
    assert prefect_folder(wiki.home) == tmp_path / "wiki" / "prefect"  # no server runs this collection
    code = "import sys; sys.stdin.read()"
    with subprocess.Popen(["python3", "-c", code, "prefect"], stdin=subprocess.PIPE) as server:
        running = Running(url="http://127.0.0.1:9", server=server.pid, worker=0, collections=(docs, wiki))
        write_json(docs.home / "prefect" / "up.json", running.model_dump(mode="json"))
        assert prefect_folder(wiki.home) == tmp_path / "docs" / "prefect"
        with pytest.raises(NightshiftError, match=r"runs docs, wiki\. To change that, stop it"):
            start(wiki.home, None, None, 9)
        with pytest.raises(NightshiftError, match="runs this collection already"):
            start(tmp_path / "new", None, None, 9, collections=[Collection(name="new", home=tmp_path / "new"), wiki])
        server.communicate()


@pytest.fixture
def files(tmp_path: Path, tiny_model: Path) -> list[Path]:
    """Write two collections of different sizes, with their settings."""
    for name, more in (("docs", 40), ("wiki", 10)):
        write_collection(tmp_path / name, more)
    return [write_settings(tmp_path, name, tiny_model) for name in ("docs", "wiki")]


@pytest.fixture
def nightshift(
    files: list[Path], alerts: tuple[str, list[dict[str, str]]]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command with both settings files; alerts go to `alerts`."""
    options = [option for file in files for option in ("--settings", str(file))]
    plain = {name: text for name, text in os.environ.items() if not name.startswith(("NIGHTSHIFT_", "PREFECT_"))}
    environment = {**plain, "PREFECT_WORKER_QUERY_SECONDS": "1", "NIGHTSHIFT_ALERT_URL": alerts[0]}
    return lambda *arguments: run_command(environment, *arguments, *options)


def finished_nights(up: Operated, name: str) -> list[str]:
    """Return the outcomes of the scheduled nights of a collection, oldest first."""
    query = {"flow_runs": {"tags": {"all_": [f"collection:{name}"]}}, "flows": {"name": {"any_": ["nightly"]}}}
    runs = up.request("flow_runs/filter", {**query, "sort": "START_TIME_ASC"})
    return [run["state"]["name"] for run in runs if run["auto_scheduled"] and run["end_time"]]


@pytest.mark.slow
def test_two_collections_live_through_two_scheduled_nights_each(
    nightshift: Callable[..., subprocess.CompletedProcess[str]],
    alerts: tuple[str, list[dict[str, str]]],
    tmp_path: Path,
) -> None:
    schedule = yaml.safe_load(FILE.read_text())
    for deployment in schedule["deployments"]:
        deployment.pop("schedules", None)
        if deployment["name"] == "nightly":
            deployment["schedules"] = [{"slug": "nightly", "interval": INTERVAL, "parameters": {"reason": "schedule"}}]
    (tmp_path / "often.yaml").write_text(yaml.safe_dump(schedule))
    options = ("--deployments", str(tmp_path / "often.yaml"), "--grace", "0.2")
    with operating(nightshift, tmp_path / "docs-home", *options) as up:
        assert "next docs night: today" in up.output
        assert "next wiki drift check: no schedule" in up.output
        for name in ("docs", "wiki"):
            up.until(lambda name=name: len(finished_nights(up, name)) >= 2, f"two nights of {name}")
            assert finished_nights(up, name)[:2] == ["Promoted", "Skipped"]
        check = up.request("deployments/name/watch-drift/watch-drift-wiki")["id"]
        assert up.wait(up.request(f"deployments/{check}/create_flow_run", {})["id"])["state"]["name"] == "Quiet"
        limits = {row["name"]: row["limit"] for row in up.request("v2/concurrency_limits/filter", {})}
        names = {"nights", "drift-checks", "publishing-docs", "publishing-wiki"}
        assert {f"nightshift-{name}": 1 for name in names}.items() <= limits.items()

        page = tmp_path / "page.html"
        states = json.loads(nightshift("status", "--json", "--html", str(page)).stdout)
        assert [(state["name"], state["passages"], state["problem"]) for state in states] == [
            ("docs", 100, ""),
            ("wiki", 70, ""),
        ]
        assert all(state["next_night"] and state["bm25"] and state["ndcg"] for state in states)
        assert all(state["release"] in page.read_text() for state in states)
        up.until((tmp_path / "docs-home" / "reports" / "collections.html").exists, "the page of the watchdog")

        checks = nightshift("doctor").stdout  # of the second collection
        well = {line.split()[1] for line in checks.splitlines() if line.startswith("ok")}
        assert {"server", "worker", "schedule", "watchdog", "logs"} <= well, checks
        assert "collection:wiki" in related_tags(up, "nightshift.drift.quiet")

        up.pause_worker()
        missing = {f"Nightshift: no scheduled run of nightly-{name}" for name in ("docs", "wiki")}
        up.until(lambda: missing <= {alert["subject"] for alert in alerts[1]}, "an alert for each collection")
    assert_one_night_at_a_time([tmp_path / f"{name}-home" for name in ("docs", "wiki")])
    assert not (tmp_path / "wiki-home" / "prefect" / "host.json").exists()


def related_tags(up: Operated, event: str) -> set[str]:
    """Return the tags of the run that emitted an event, as automations see them."""
    query = {"filter": {"event": {"name": [event]}, "occurred": {"since": "2026-01-01T00:00:00Z"}}}
    events: list[dict[str, Any]] = []
    up.until(lambda: bool(events.extend(up.request("events/filter", query)["events"]) or events), event)
    related = [resource for row in events for resource in row["related"]]
    return {resource["prefect.resource.id"].removeprefix("prefect.tag.") for resource in related}


def assert_one_night_at_a_time(homes: list[Path]) -> None:
    nights = [row for home in homes for row in pq.read_table(home / "history.parquet").to_pylist()]
    nights.sort(key=lambda night: night["began"])
    assert len(nights) >= 4
    for earlier, later in pairwise(nights):
        assert earlier["ended"] <= later["began"]
