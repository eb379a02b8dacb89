"""Nights that choose what to train by what earlier nights of the home measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from night_results import manifests
from things_and_traits import add_lines

from tasks.core.report.history import past_nights, read_history

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

AUTO = {
    "NIGHTSHIFT_ENCODER__SHARED": "false",
    "NIGHTSHIFT_ENCODER__TRAIN": "auto",
    "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "0",
    "NIGHTSHIFT_DRIFT__DERIVED_MARGIN": "1",  # a small collection moves by chance
    "NIGHTSHIFT_DRIFT__DERIVED_NIGHTS": "1",
}


def add_training_pair(source: Path, query: str, passage: str) -> None:
    add_lines(source, "queries.jsonl", {"_id": query, "text": f"find the story of {query} and {passage}"})
    add_lines(source, "qrels/train.tsv", f"{query}\t{passage}\t1")


def test_nights_train_all_weights_then_a_map_and_all_weights_again_after_the_set_number(
    nightshift: Command, environment: dict[str, str]
) -> None:
    home, source = Path(environment["NIGHTSHIFT_HOME"]), Path(environment["NIGHTSHIFT_DATA__PATH"])
    for number in range(3):
        if number:
            add_training_pair(source, f"new{number}", f"p{number}")
        done = nightshift("run", **AUTO)
        assert done.stdout.startswith("Promoted: "), done.stdout + done.stderr
    rows = read_history(home).to_pylist()
    assert [row["route"] for row in rows] == ["scratch", "query+map", "warm"]
    nights = past_nights(home)
    assert all(night.promoted and night.gain is not None and night.seconds > 0 for night in nights)
    encoders = manifests(home, "encoders")
    trained = {encoder["fingerprint"]: encoder for encoder in encoders if encoder["steps"]}
    full, mapped, warm = (trained[row["encoder"]] for row in rows)
    assert mapped["trunk"] == full["passage_fingerprint"]
    assert warm["trunk"] not in ("", mapped["trunk"])  # the passage encoder was trained as well
    pages = [page.read_text() for page in sorted((home / "reports").glob("[0-9]*.html"))]
    assert "Trained: scratch (no release serves yet)." in pages[0]
    assert "Trained: query+map" in pages[1]
    assert "in the last full training" in pages[1]
    assert "Trained: warm (1 derived training since the last full training)." in pages[2]
