"""`nightshift doctor` on working and broken installations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import CREDENTIALS, s3_server

from flows.doctor import examine
from flows.local_prefect import running, started
from tasks.core.base.sections.compute import ComputeSettings, StoreSettings
from tasks.core.base.settings import EncoderSettings, Settings


def test_a_working_installation_passes(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    with s3_server("doctor") as options:
        store = StoreSettings(url=f"s3://doctor/nights?{options}")
        settings = Settings(home=tmp_path, store=store, encoder=EncoderSettings(model=str(tiny_model)))
        checks = {check.name: check for check in examine(settings)}
    assert checks.keys() == {"java", "disk", "model", "milvus", "ledger", "prefect", "store"}
    assert {name for name, check in checks.items() if not check.passed} == set()
    assert checks["store"].detail == "s3://doctor/nights writes and reads objects"


def test_each_failed_check_reports_the_next_step(tmp_path: Path) -> None:
    broken = {
        **CREDENTIALS,
        "NIGHTSHIFT_HOME": str(tmp_path),
        "NIGHTSHIFT_ENCODER__MODEL": str(tmp_path / "nowhere"),
        "NIGHTSHIFT_MILVUS__URI": "http://127.0.0.1:9",
        "NIGHTSHIFT_STORE__URL": "s3://none/nights?scheme=http&endpoint_override=127.0.0.1:9&region=eu-central-1",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    command = [sys.executable, "-m", "flows.cli", "doctor"]
    done = subprocess.run(command, env={**os.environ, **broken}, capture_output=True, text=True, timeout=180)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert {line[:5] for line in done.stdout.splitlines()} == {"ok   ", "FAIL ", "     "}  # long lines are not wrapped
    for name, fix in {
        "model": "demo extra",
        "milvus": "start",
        "prefect": "prefect server start",
        "store": "cluster.md",
    }.items():
        assert name in done.stdout
        assert fix in " ".join(done.stdout.split())


def test_ray_without_a_prefect_server_for_its_workers_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    settings = Settings(home=tmp_path, compute=ComputeSettings(engine="ray", address="127.0.0.1:9"))
    (ray,) = (check for check in examine(settings) if check.name == "ray")
    assert not ray.passed
    assert "PREFECT_API_URL" in ray.detail or "nightshift[ray]" in ray.detail


def test_a_dead_server_fails_the_check_and_its_errors_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    folder = tmp_path / "prefect"
    folder.mkdir()
    (folder / "up.json").write_text('{"url": "http://127.0.0.1:9", "server": 0, "worker": 0}')
    (folder / "server.log").write_text("02:00:00.000 | ERROR   | scheduler - Can't evaluate bulk DML statement\n" * 7)
    checks = {check.name: check for check in examine(Settings(home=tmp_path))}
    local = {"server", "worker", "schedule", "runs", "watchdog", "logs"}
    assert {name for name in local if not checks[name].passed} == local
    assert "7 × " in checks["logs"].detail
    assert "bulk DML" in checks["logs"].detail
    assert "last at 02:00:00" in checks["logs"].detail
    assert "nightshift up" in checks["server"].fix


@pytest.mark.parametrize("content", [b'{"url": "http://127', b"[]", b'{"url": "x", "server": 1}', b"\xff\x00"])
def test_a_damaged_record_of_up_counts_as_absent_and_is_kept_as_a_backup(
    content: bytes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "prefect"
    folder.mkdir()
    (folder / "up.json").write_bytes(content)
    assert running(tmp_path) is None
    assert "Processes that `nightshift up` started may still run" in caplog.text
    (backup,) = folder.glob(".up.json.damaged-*")
    assert backup.read_bytes() == content
    assert started(tmp_path) is None
