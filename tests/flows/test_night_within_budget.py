"""A night that gets a budget for training instead of epochs, and may merge weights."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from night_results import manifests

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow


def test_a_night_within_a_budget_reports_its_recipe_and_its_merge(
    nightshift: Command, environment: dict[str, str]
) -> None:
    environment |= {
        "NIGHTSHIFT_TRAINING__MINUTES": "0.5",
        "NIGHTSHIFT_TRAINING__MAX_STEPS": "9",  # of each round
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
    encoders = manifests(home, "encoders")
    trained = [encoder for encoder in encoders if encoder["steps"]]
    assert trained
    for encoder in trained:
        assert encoder["steps"] <= 9
        assert encoder["merge"]["kept"] == "trained"
        assert "fewer than 20 dev queries" in encoder["merge"]["why"]
    page = Path(json.loads(nightshift("report", "--json").stdout)["report"]).read_text()
    pace_of = json.loads(recorded)["tokens_per_second"]
    assert f"0.5 minutes at {pace_of:,.0f} tokens per second" in page
    assert re.search(r"(one round|2 rounds) of \d+ steps", page)
    assert "Merging kept the trained weights" in page
    assert nightshift("run").stdout.startswith("Skipped")
