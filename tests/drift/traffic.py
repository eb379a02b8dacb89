"""Usual and unfamiliar queries, and drift checks on them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Drift
from tasks.core.drift.watch import watch
from tasks.core.report.night import recipe_of

THINGS = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern", "falcon", "harbour"]
NIGHT = datetime(2026, 11, 1, 2, tzinfo=UTC)


def log_queries(settings: Settings, *texts: str) -> None:
    assert settings.drift.queries is not None
    with settings.drift.queries.open("a") as file:
        file.writelines(json.dumps({"query": text}) + "\n" for text in texts)


def add_passage(settings: Settings) -> None:
    assert settings.data.path is not None
    with (Path(settings.data.path) / "corpus.jsonl").open("a") as passages:
        passages.write(json.dumps({"_id": "new", "text": "a silent market"}) + "\n")


def usual(night: int) -> list[str]:
    return [f"where was the {thing} near the {other} seen {'a ' * night}" for thing in THINGS for other in THINGS[:3]]


def unfamiliar(night: int) -> list[str]:
    """Known words, which do not look damaged, in an order that no query had: scores fall."""
    return [f"{'of ' * (6 + night)}{thing} {other}" for thing in THINGS for other in THINGS[:3]]


def check_drift(settings: Settings, serving: Release, snapshot: Snapshot, night: float) -> Drift:
    return watch(settings, serving, snapshot, recipe_of(settings), NIGHT + timedelta(days=night))
