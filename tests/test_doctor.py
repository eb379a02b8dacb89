"""The doctor looks at real things, well and ill."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import CREDENTIALS, s3_server

from flows.doctor import examine
from tasks.core.base.sections.compute import ComputeSettings, StoreSettings
from tasks.core.base.settings import EncoderSettings, Settings


def test_what_is_well_is_found_well(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with s3_server("looked-at") as options:
        store = StoreSettings(url=f"s3://looked-at/nights?{options}")
        settings = Settings(home=tmp_path, store=store, encoder=EncoderSettings(model=str(tiny_model)))
        checks = {one.name: one for one in examine(settings)}
    assert checks.keys() == {"java", "disk", "model", "milvus", "ledger", "prefect", "store"}
    assert {name for name, one in checks.items() if not one.well} == set()
    assert checks["store"].found == "s3://looked-at/nights takes and gives objects"


def test_what_is_ill_is_told_with_what_to_do(tmp_path: Path) -> None:
    more = {
        **CREDENTIALS,
        "NIGHTSHIFT_HOME": str(tmp_path),
        "NIGHTSHIFT_ENCODER__MODEL": str(tmp_path / "nowhere"),
        "NIGHTSHIFT_MILVUS__URI": "http://127.0.0.1:9",
        "NIGHTSHIFT_STORE__URL": "s3://none/nights?scheme=http&endpoint_override=127.0.0.1:9&region=eu-central-1",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    command = [sys.executable, "-m", "flows.cli", "doctor"]
    done = subprocess.run(command, env={**os.environ, **more}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for name, mend in {
        "model": "demo extra",
        "milvus": "start",
        "prefect": "prefect server start",
        "store": "cluster.md",
    }.items():
        assert name in done.stdout
        assert mend in " ".join(done.stdout.split())


def test_ray_without_a_prefect_server_for_its_workers_is_ill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings = Settings(home=tmp_path, compute=ComputeSettings(engine="ray", address="127.0.0.1:9"))
    (ray,) = (one for one in examine(settings) if one.name == "ray")
    assert not ray.well
    assert "PREFECT_API_URL" in ray.found or "nightshift[ray]" in ray.found


def test_a_dead_server_of_up_is_ill_and_its_errors_are_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    folder = tmp_path / "prefect"
    folder.mkdir()
    (folder / "up.json").write_text('{"url": "http://127.0.0.1:9", "server": 0, "worker": 0}')
    (folder / "server.log").write_text("02:00:00.000 | ERROR   | scheduler - Can't evaluate bulk DML statement\n" * 7)
    checks = {check.name: check for check in examine(Settings(home=tmp_path))}
    local = {"server", "worker", "schedule", "runs", "watchdog", "logs"}
    assert {name for name in local if not checks[name].well} == local
    assert "7 × " in checks["logs"].found
    assert "bulk DML" in checks["logs"].found
    assert "last at 02:00:00" in checks["logs"].found
    assert "nightshift up" in checks["server"].mend
