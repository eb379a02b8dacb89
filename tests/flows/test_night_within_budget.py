"""A night that gets a budget for training instead of epochs, and may merge weights."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = [pytest.mark.xdist_group("prefect"), pytest.mark.slow]


def test_a_night_within_a_budget_reports_its_recipe_and_its_merge(
    nightshift: Command, environment: dict[str, str]
) -> None:
    environment |= {
        "NIGHTSHIFT_TRAINING__MINUTES": "0.5",
        "NIGHTSHIFT_TRAINING__MAX_STEPS": "24",  # of each round, whatever the pace of this machine is
        "NIGHTSHIFT_TRAINING__MERGE": "dev",
    }
    home = Path(environment["NIGHTSHIFT_HOME"])
    planned = nightshift("run", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "0.5 minutes" in " ".join(planned.stdout.split())
    (pace,) = home.glob("paces/*/manifest.json")
    recorded = pace.read_bytes()

    promoted = nightshift("run")
    assert promoted.stdout.startswith("Promoted"), promoted.stdout + promoted.stderr
    assert pace.read_bytes() == recorded
    report = json.loads(nightshift("report", "--json").stdout)
    recipe, encoder = report["budget"], report["trained"][0]
    assert recipe["tokens_per_second"] == json.loads(recorded)["tokens_per_second"]
    assert recipe["steps"] == 24
    assert encoder["steps"] <= 24
    assert len(report["trained"]) <= recipe["rounds"]
    assert encoder["merge"]["kept"] == "trained"
    assert "fewer than 20 dev queries" in encoder["merge"]["why"]
    page = Path(report["report"]).read_text()
    assert "0.5 minutes at" in page
    assert "Merging kept the trained weights" in page
    assert nightshift("run").stdout.startswith("Skipped")
