"""Experiment trackers: a night and a rollback in MLflow and in Weights & Biases, and trackers that are down."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from tasks.core.base.receipts import Encoder, Evaluation, Ingested, Release, Snapshot
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.base.settings import Settings
from tasks.core.report.night import Night
from tasks.core.report.outcomes import Outcome
from tasks.core.report.tracking.outbox import OUTBOX, track_night, track_serving
from tasks.core.report.tracking.tracker import TrackedNight

BEGAN = datetime(2026, 3, 1, 2, tzinfo=UTC)


def release_of(home, number):
    name = f"r{number:04d}-aaaa"
    folder = home / Release.shelf / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text("# card")
    return Release(
        digest=name, path=folder, rows=9, release=name, created=BEGAN.isoformat(), generation=number,
        fingerprint=f"f{number}", encoder="e", embeddings="v", snapshot="s", collection="c", dimension=4, metric="IP",
        recipe="", reason="", metrics={}, bm25={}, base={}, previous=None,
    )  # fmt: skip


def night_of(home, number, outcome=Outcome.PROMOTED):
    """Return the record of a night that trained an encoder."""
    began = BEGAN + timedelta(days=number)
    settings = Settings(home=home, service={"token": "hidden-word"}, gate={"margin": 0.02})
    report = home / f"report-{number}.html"
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<h1>night</h1>")
    encoder = Encoder(
        digest="e", path=Path(), rows=1, fingerprint="f", passage_fingerprint="p", dimension=4, base="b", steps=3,
        precision="fp32", fidelity=1, loss=(0.3, 0.2, 0.1), kept=2, dev=((0, 0.4), (2, 0.5)),
    )  # fmt: skip
    rows = {"rows": 9, "accepted": 7, "quarantined": 2, "rules": ()}
    measured = Evaluation(digest="m", path=Path(), rows=5, system="challenger", split="test", metrics={"ndcg@10": 0.8})
    return Night(
        began=began,
        ended=began + timedelta(minutes=30),
        reason="schedule",
        outcome=outcome,
        ingested=Ingested(digest="i", path=Path(), source="beir", snapshot="s", **rows),
        snapshot=Snapshot(digest="5a5a", path=Path(), rows=100, queries=20, qrels=30, splits={"train": 20}),
        trained=(encoder,),
        figures={"challenger": measured},
        release=release_of(home, number) if outcome is Outcome.PROMOTED else None,
        settings=resolve(settings),
        report=report,
    )


def waiting(home):
    return sorted((home / OUTBOX).glob("*.json"))


def test_a_night_is_recorded_without_secrets(tmp_path):
    tracked = TrackedNight.of(night_of(tmp_path, 1), tmp_path)
    assert tracked.parameters["gate.margin"] == 0.02
    assert "hidden-word" not in tracked.model_dump_json()
    assert tracked.metrics["challenger.ndcg_at_10"] == 0.8
    assert tracked.metrics["seconds"] == 1800
    assert tracked.series["round_0.loss"] == [(1, 0.3), (2, 0.2), (3, 0.1)]
    assert tracked.series["round_0.dev_ndcg_at_10"] == [(0, 0.4), (2, 0.5)]
    assert (tracked.data.digest, tracked.data.passages) == ("5a5a", 100)
    assert TrackedNight.model_validate_json(tracked.model_dump_json()) == tracked


def test_without_a_tracker_no_file_is_written(tmp_path):
    track_night(tmp_path, TrackingSettings(), night_of(tmp_path, 1))
    track_serving(tmp_path, TrackingSettings(), "r0001-aaaa")
    assert not (tmp_path / "tracking").exists()


def test_a_tracker_that_is_down_or_silent_fails_no_night_and_the_night_is_kept(tmp_path, caplog):
    pytest.importorskip("mlflow")
    with socket.socket() as listener:  # it accepts, and never answers
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        silent = TrackingSettings(tracker="mlflow", url=f"http://127.0.0.1:{listener.getsockname()[1]}", seconds=0.5)
        track_night(tmp_path, silent, night_of(tmp_path, 1))
    down = silent.model_copy(update={"seconds": 60})
    track_night(tmp_path, down, night_of(tmp_path, 2))
    track_serving(tmp_path, down, "r0001-aaaa")
    assert "did not answer within 0.5 s" in caplog.text
    assert "the tracker failed" in caplog.text
    assert len(waiting(tmp_path)) == 3


def test_wandb_gets_nights_and_rollbacks_offline(tmp_path):
    pytest.importorskip("wandb")
    settings = TrackingSettings(tracker="wandb", seconds=120)
    track_night(tmp_path, settings, night_of(tmp_path, 1))
    track_serving(tmp_path, settings, "r0001-aaaa")
    assert waiting(tmp_path) == []
    runs = sorted((tmp_path / "tracking" / "wandb").rglob("run-*.wandb"))
    assert len(runs) == 2
    content = b"".join(run.read_bytes() for run in runs)
    for text in (b"gate.margin", b"round_0.loss", b"5a5a", b"r0001-aaaa"):
        assert text in content
    assert b"hidden-word" not in content


def test_a_damaged_file_is_set_aside_and_the_others_are_sent(tmp_path):
    pytest.importorskip("wandb")
    folder = tmp_path / OUTBOX
    folder.mkdir(parents=True)
    (folder / "0.json").write_text("{")
    (folder / "1.json").write_text(json.dumps({"serving": "r0001-aaaa"}))
    track_serving(tmp_path, TrackingSettings(tracker="wandb", seconds=120), "r0002-aaaa")
    assert waiting(tmp_path) == []
    assert (folder / "0.damaged").read_text() == "{"
    assert len(list((tmp_path / "tracking" / "wandb").rglob("run-*.wandb"))) == 2


def test_the_command_reports_that_there_is_no_tracker(tmp_path):
    result = CliRunner().invoke(app, ["track"], env={"NIGHTSHIFT_HOME": str(tmp_path)})
    assert (result.exit_code, "no tracker" in result.output) == (1, True)
