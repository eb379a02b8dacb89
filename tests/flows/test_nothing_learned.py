"""Nights without training progress stop or are rejected before the corpus is embedded, with the reason."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]

pytestmark = pytest.mark.slow

THAI = ["ข้าวผัดกุ้งอร่อยมาก", "รถไฟฟ้าสายสีเขียว", "ตลาดน้ำดำเนินสะดวก", "มหาวิทยาลัยเชียงใหม่"]


def write_lines(file: Path, rows: list[dict[str, str]]) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def test_texts_in_a_script_unknown_to_the_model_stop_the_night_before_training(
    nightshift: Command, environment: Environment
) -> None:
    source = Path(environment["NIGHTSHIFT_DATA__PATH"])
    for name in ("corpus", "queries"):
        ids = [json.loads(line)["_id"] for line in (source / f"{name}.jsonl").read_text().splitlines()]
        texts = [THAI[number % 4] * (1 + number // 4) for number in range(len(ids))]
        ending = "" if name == "corpus" else "กุ้ง"
        rows = [{"_id": key, "text": text + ending} for key, text in zip(ids, texts, strict=True)]
        write_lines(source / f"{name}.jsonl", rows)
    stopped = nightshift("run", NIGHTSHIFT_DATA__MAX_REFUSED="1", NIGHTSHIFT_DATA__MIN_LIFT="0")
    assert stopped.returncode == 1, stopped.stdout
    assert "nothing can be learned from this data with" in stopped.stderr
    assert "at least half of the query's or the passage's tokens are unknown" in stopped.stderr
    assert "BM25 has no hit for" in stopped.stdout + stopped.stderr
    home = Path(environment["NIGHTSHIFT_HOME"])
    assert not list(home.glob("negatives/*/manifest.json"))
    assert not list(home.glob("releases/*"))


@pytest.mark.usefixtures("served")
def test_a_collapsed_encoder_is_rejected_before_the_corpus_is_embedded(
    nightshift: Command, environment: Environment
) -> None:
    home = Path(environment["NIGHTSHIFT_HOME"])
    before = set(home.glob("embeddings/*/manifest.json"))
    rejected = nightshift(
        "run",
        NIGHTSHIFT_ENCODER__START="serving",
        NIGHTSHIFT_TRAINING__LEARNING_RATE="0.5",
        NIGHTSHIFT_TRAINING__EVALUATE_EVERY="1",
    )
    assert rejected.returncode == 0, rejected.stderr
    assert rejected.stdout.startswith("Rejected: training did not improve on step 0 (dev nDCG@10 "), rejected.stdout
    assert "; best later step 0." in rejected.stdout
    assert "Keeping the weights of step 0" in rejected.stdout + rejected.stderr
    assert set(home.glob("embeddings/*/manifest.json")) == before
    report = json.loads(nightshift("report", "--json").stdout)
    assert report["outcome"] == "Rejected"
    assert report["why"].startswith("training did not improve on step 0")
