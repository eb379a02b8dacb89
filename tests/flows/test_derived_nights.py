"""Nights that train the query encoder and a passage map: their vectors are derived from those of the trunk."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from night_results import manifests
from things_and_traits import add_lines

Command = Callable[..., subprocess.CompletedProcess[str]]

pytestmark = pytest.mark.slow

DERIVED = {
    "NIGHTSHIFT_ENCODER__SHARED": "false",
    "NIGHTSHIFT_ENCODER__TRAIN": "query+map",
    "NIGHTSHIFT_ENCODER__START": "serving",
    "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "0",
}


def test_derived_nights_serve_refresh_and_compose_on_the_trunk(
    nightshift: Command, environment: dict[str, str]
) -> None:
    home, query = Path(environment["NIGHTSHIFT_HOME"]), "where was the silent river seen"
    first = nightshift("run", **DERIVED)
    assert first.stdout.startswith("Promoted: release r0001-"), first.stdout + first.stderr
    (encoder,) = (encoder for encoder in manifests(home, "encoders") if encoder["trunk"])
    (base,) = (encoder for encoder in manifests(home, "encoders") if not encoder["trunk"])
    assert encoder["trunk"] == base["passage_fingerprint"]
    derived = [vectors for vectors in manifests(home, "embeddings") if vectors["derived"]]
    assert {(vectors["embedded"], vectors["derived"]) for vectors in derived} >= {(0, 100)}
    answer = nightshift("search", query, "--json", **DERIVED)
    assert len(json.loads(answer.stdout)["hits"]) == 10, answer.stderr

    fresh = {"_id": "fresh", "title": "", "text": "a silent glacier and a broken engine"}
    add_lines(Path(environment["NIGHTSHIFT_DATA__PATH"]), "corpus.jsonl", fresh)
    refreshed = nightshift("run", **DERIVED)
    assert refreshed.stdout.startswith("Promoted: release r0002-"), refreshed.stdout + refreshed.stderr
    newest = [vectors for vectors in manifests(home, "embeddings") if vectors["rows"] == 101]
    counts = {(vectors["fingerprint"], vectors["embedded"], vectors["derived"]) for vectors in newest}
    assert counts == {(base["passage_fingerprint"], 1, 0), (encoder["passage_fingerprint"], 0, 1)}

    second = nightshift("run", **DERIVED, NIGHTSHIFT_TRAINING__SEED="1")
    assert second.stdout.startswith(("Promoted: release r0003-", "Rejected: ")), second.stdout + second.stderr
    trained = [encoder for encoder in manifests(home, "encoders") if encoder["steps"]]
    assert len(trained) == 2
    assert {encoder["trunk"] for encoder in trained} == {base["passage_fingerprint"]}
    assert sum(vectors["embedded"] for vectors in manifests(home, "embeddings") if vectors["rows"] > 90) == 101
    answer = nightshift("search", query, "--json", **DERIVED)
    assert len(json.loads(answer.stdout)["hits"]) == 10, answer.stderr
