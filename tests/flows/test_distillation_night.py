"""A whole night that learns from a teacher, from settings alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest


@pytest.mark.usefixtures("served")
def test_a_night_from_settings_learns_from_a_teacher_and_reports_it(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str]
) -> None:
    distilled = {"NIGHTSHIFT_TRAINING__LOSS": "kl", "NIGHTSHIFT_TRAINING__CONTRASTIVE_SHARE": "0.5"}
    night = nightshift("run", **distilled, NIGHTSHIFT_MINING__TEACHER__SOURCE="blend", NIGHTSHIFT_MINING__MARGIN="1")
    assert night.returncode == 0, night.stderr
    assert night.stdout.startswith("Promoted"), night.stdout
    home = Path(environment["NIGHTSHIFT_HOME"])
    checks = {
        file.parent: json.loads(file.read_text())["teacher"] for file in home.glob("negatives/[!.]*/manifest.json")
    }
    ((negatives, check),) = ((folder, check) for folder, check in checks.items() if check)
    assert check["accuracy"] > check["encoder_accuracy"]
    assert pq.read_table(negatives / "negatives.parquet")["teacher_score"].null_count == 0
    assert (negatives / "positives.parquet").is_file()
    report = max(home.glob("reports/[0-9]*.html"))
    assert f"ranks the positive first in {check['accuracy']:.1%}" in report.read_text()
