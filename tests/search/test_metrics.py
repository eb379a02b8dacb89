"""Metrics, liveness, and readiness of the service."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from damage_in_place import flip
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from release_world import HashingEncoder, release_night, small
from waiting import wait_until

from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Ingested
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.release.rollback import rollback
from tasks.core.report.history import record
from tasks.core.report.night import Night
from tasks.core.report.night_metrics import write_night_metrics
from tasks.core.search.http import make_app
from tasks.core.search.metrics import NIGHT_FILE, RequestOutcome
from tasks.core.search.service import Service
from tasks.core.search.stages import Stage

DASHBOARD = Path(__file__).parents[2] / "infra" / "grafana" / "nightshift.json"


def serving(settings, **service):
    settings = settings.model_copy(update={"service": ServiceSettings(**service)})
    return TestClient(
        make_app(Service.open(settings, HashingEncoder)), base_url="http://127.0.0.1", raise_server_exceptions=False
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Build a home with two releases; the second ranks with encoder and BM25, and serves."""
    settings = small(tmp_path_factory.mktemp("metrics") / "var", notice_seconds=0.02)
    return settings, [
        release_night(settings, seed=seed, weight=weight).release for seed, weight in ((1, None), (2, 0.5))
    ]


def scrape(client, **headers):
    """Return (name, labels) → value of every sample."""
    response = client.get("/metrics", headers=headers)
    assert response.status_code == 200
    families = text_string_to_metric_families(response.text)
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families for sample in family.samples
    }


def value(samples, name, **labels):
    return samples[(name, *sorted(labels.items()))]


def dashboard_queries():
    """Return the queries of all panels."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel.get("targets", [])]


def rejected_night():
    began = datetime(2026, 3, 1, 2, tzinfo=UTC)
    rows = {"rows": 9, "accepted": 7, "quarantined": 2, "rules": ()}
    ingested = Ingested(digest="i", path=Path(), source="beir", snapshot="s", **rows)
    ended = began + timedelta(minutes=90)
    return Night(began=began, ended=ended, reason="schedule", outcome="Rejected", ingested=ingested)


def test_requests_durations_and_queries_are_counted(world):
    settings, (first, second) = world
    with serving(settings) as client:
        before = scrape(client)
        client.post("/search", json={"query": "lamp"})
        client.post("/search", json={"queries": ["lamp", "river"], "mode": "dense"})
        client.post("/search", json={"query": "lamp", "release": first})
        client.post("/search", json={"query": "lamp", "release": "r9"})
        client.post("/search", json={"query": ""})
        client.post("/search", json={"query": "lamp"}, headers={"host": "evil.example"})
        after = scrape(client)
    grown = {key: after[key] - before.get(key, 0) for key in after}
    outcomes = {outcome: value(grown, "nightshift_requests_total", outcome=outcome) for outcome in RequestOutcome}
    expected = {"answered": 3, "unknown_release": 1, "invalid": 1, "denied": 1}
    assert {outcome: count for outcome, count in outcomes.items() if count} == expected
    assert value(grown, "nightshift_queries_total", mode="dense") == 3
    assert value(grown, "nightshift_queries_total", mode="hybrid") == 1
    assert value(grown, "nightshift_request_seconds_count", mode="dense") == 2
    stages = {
        mode: {stage: value(grown, "nightshift_stage_seconds_count", mode=mode, stage=stage) for stage in Stage}
        for mode in Mode
    }
    assert stages["hybrid"] == dict.fromkeys(Stage, 1)
    assert stages["dense"] == {**dict.fromkeys(Stage, 2), Stage.FETCH: 0}
    assert set(stages["lexical"].values()) == {0}
    for mode in ("dense", "hybrid"):
        parts = sum(value(grown, "nightshift_stage_seconds_sum", mode=mode, stage=stage) for stage in Stage)
        assert 0 < parts <= value(grown, "nightshift_request_seconds_sum", mode=mode)
    fingerprint = manifest_of(settings, second)["fingerprint"]
    labels = {"release": second, "mode": "hybrid", "fingerprint": fingerprint}
    assert value(after, "nightshift_serving_release_info", **labels) == 1


def manifest_of(settings, release):
    return json.loads((settings.home / "releases" / release / "manifest.json").read_text())


def test_the_serving_release_its_age_rows_and_swaps_follow_the_pointer(world):
    settings, (first, second) = world
    with serving(settings) as client:
        before = scrape(client)
        assert value(before, "nightshift_swaps_total") == 0
        assert value(before, "nightshift_index_rows") == 200
        rollback(settings, first)
        wait_until(lambda: client.get("/healthz").json()["release"] == first, "the swap", 60, pause=0.01)
        after = scrape(client)
        rollback(settings, second)
    assert value(after, "nightshift_swaps_total") == 1
    name = "nightshift_serving_release_created_timestamp_seconds"
    for release, samples in ((second, before), (first, after)):
        made = manifest_of(settings, release)["created"]
        assert math.isclose(value(samples, name), datetime.fromisoformat(made).timestamp())
        assert [dict(key[1:])["release"] for key in samples if key[0] == "nightshift_serving_release_info"] == [release]


def test_liveness_stays_ok_while_a_damaged_release_is_not_ready(tmp_path):
    settings = small(tmp_path / "var", {"check_minutes": 0.0005})
    release = release_night(settings)
    with serving(settings) as client:
        assert client.get("/readyz").status_code == 200
        assert value(scrape(client), "nightshift_ready") == 1
        (file,) = (settings.home / "milvus" / f"{release.collection}.db").rglob("*.idx")
        flip(file)
        wait_until(lambda: client.get("/readyz").status_code != 200, "the damage is noticed", 60, pause=0.01)
        assert client.get("/livez").json() == {"status": "ok"}
        client.post("/search", json={"query": "lamp"})
        samples = scrape(client)
    assert value(samples, "nightshift_ready") == 0
    assert value(samples, "nightshift_requests_total", outcome="unavailable") == 1


def test_metrics_need_the_token_of_searches_or_their_own(world):
    with serving(world[0], token="hidden-word", metrics_token="second-word") as client:
        anywhere = {"host": "search.example"}
        for token, status in ((None, 401), ("wrong", 401), ("hidden-word", 200), ("second-word", 200)):
            headers = {**anywhere, **({"authorization": f"Bearer {token}"} if token else {})}
            assert client.get("/metrics", headers=headers).status_code == status
        second = {**anywhere, "authorization": "Bearer second-word"}
        assert client.post("/search", json={"query": "a"}, headers=second).status_code == 401
        assert {client.get(path, headers=anywhere).status_code for path in ("/livez", "/readyz")} == {200}
    with serving(world[0], token="hidden-word") as client:
        empty = {**anywhere, "authorization": "Bearer "}
        assert client.get("/metrics", headers=empty).status_code == 401
    with serving(world[0]) as client:
        assert client.get("/metrics", headers=anywhere).status_code == 403


def test_the_last_night_is_exposed_and_a_damaged_file_hides_only_it(world):
    settings, _ = world
    home, night = settings.home, rejected_night()
    with serving(settings) as client:
        assert not any("night_" in key[0] for key in scrape(client))
        record(home, night)
        file = write_night_metrics(home, night)
        samples = scrape(client)
        assert value(samples, "nightshift_night_outcome", outcome="Rejected") == 1
        assert value(samples, "nightshift_night_outcome", outcome="Promoted") == 0
        assert value(samples, "nightshift_nights", outcome="Rejected") == 1
        assert value(samples, "nightshift_night_seconds") == 5400
        assert value(samples, "nightshift_night_rows_read") == 9
        assert value(samples, "nightshift_night_rows_refused") == 2
        assert value(samples, "nightshift_night_ended_timestamp_seconds") == night.ended.timestamp()
        assert value(samples, "nightshift_night_step_seconds", step="validate") == night.ingested.seconds
        file.write_bytes(b"nightshift_night_seconds{ \xff")
        assert value(scrape(client), "nightshift_index_rows") == 200
        file.unlink()
    assert file == home / NIGHT_FILE


def test_every_metric_of_the_dashboard_is_exposed(world):
    settings, _ = world
    with serving(settings) as client:
        client.post("/search", json={"query": "lamp"})
        names = {key[0] for key in scrape(client)}
    source = (Path(__file__).parents[2] / "tasks/core/report/night_metrics.py").read_text()
    names |= set(re.findall(r'"(nightshift_\w+)"', source))
    names |= {f"nightshift_night_{name}" for name in re.findall(r'_gauge\(registry, "(\w+)"', source)}
    used = {name for query in dashboard_queries() for name in re.findall(r"\bnightshift_\w+", query)}
    assert len(used) > 15
    assert used - names == set()


def test_a_service_without_traces_imports_no_opentelemetry_sdk():
    code = "import sys, tasks.core.search.http; print('opentelemetry.sdk' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == "False"
