"""A challenger trained on shuffled qrels is rejected, the serving release stays, and the report gives the reason."""

from __future__ import annotations

import html
import json
import random
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from night_results import document

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]

STRICT = {
    "NIGHTSHIFT_GATE__MARGIN": "0.01",
    "NIGHTSHIFT_DATA__MIN_LIFT": "0",  # otherwise the night stops before training: BM25 has no hits
    "NIGHTSHIFT_DATA__COMPARE": "false",
    "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "0",  # otherwise the dev queries reject it before probe and gate
}


def shuffle_qrels(file: Path) -> None:
    """Give every query the passage of another query."""
    head, *rows = file.read_text().splitlines()
    queries, passages, scores = zip(*(row.split("\t") for row in rows), strict=True)
    mixed = list(passages)
    random.Random(0).shuffle(mixed)
    rows = ["\t".join(row) for row in zip(queries, mixed, scores, strict=True)]
    file.write_text("\n".join([head, *rows]) + "\n")


def pointer(environment: Environment) -> dict[str, Any]:
    (file,) = Path(environment["NIGHTSHIFT_HOME"]).rglob("serving.json")
    manifest: dict[str, Any] = json.loads(file.read_text())
    return manifest


@pytest.mark.usefixtures("served")
def test_a_challenger_trained_on_shuffled_qrels_is_rejected(nightshift: Command, environment: Environment) -> None:
    before = pointer(environment)
    shuffle_qrels(Path(environment["NIGHTSHIFT_DATA__PATH"]) / "qrels" / "train.tsv")

    rejected = nightshift("run", **STRICT)
    assert rejected.returncode == 0, rejected.stderr
    reason = "not shown to be no worse than the serving release"
    assert rejected.stdout.startswith(f"Rejected: {reason}")
    assert pointer(environment) == before
    report = document(nightshift("report", "--json"))
    assert report["outcome"] == "Rejected"
    assert reason in report["why"]
    page = html.unescape(Path(report["report"]).read_text())
    assert reason in page
    assert f"<code>{before['release']}</code></a> still serves" in page
    assert "What would have changed it: " in page
    assert "was not moved" in page

    # BM25 alone would hide the challenger's loss on the pool.
    probed = nightshift("run", NIGHTSHIFT_EVALUATION__PROBE_SHARE="1", NIGHTSHIFT_EVALUATION__PROBE_DEPTH="1",
                        NIGHTSHIFT_EVALUATION__PROBE_RANDOM="10", NIGHTSHIFT_EVALUATION__RANKING="dense",
                        **STRICT)  # fmt: skip
    assert probed.stdout.startswith("Rejected: clearly worse than the serving release already on a pool of")
    assert pointer(environment) == before

    history = pq.read_table(Path(environment["NIGHTSHIFT_HOME"]) / "history.parquet").to_pylist()
    assert [row["outcome"] for row in history] == ["Promoted", "Rejected", "Rejected"]
    assert {row["release"] for row in history} == {before["release"]}
    assert history[1]["challenger_ndcg"] < history[1]["serving_ndcg"]

    # Compare two systems of a night: the page names them.
    shelf = Path(environment["NIGHTSHIFT_HOME"]) / "evaluations"
    systems = {
        evaluation["system"]: evaluation
        for path in shelf.glob("*/manifest.json")
        for evaluation in [json.loads(path.read_text())]
    }
    duel = document(nightshift("compare", "serving", systems["bm25"]["digest"], "--json"))
    assert duel["a"] == before["release"]
    assert duel["comparison"]["queries"] == 20
    comparison = nightshift("compare", "serving", systems["bm25"]["digest"], "--cases", "1")
    assert "queries better" in comparison.stdout
    unknown = nightshift("compare", "nothing", "serving")
    assert unknown.returncode == 1
    assert "'nothing': no release and no evaluation" in unknown.stderr


@pytest.mark.slow
def test_a_real_challenger_trained_on_shuffled_qrels_is_rejected(
    nightshift: Command, environment: Environment, tmp_path: Path
) -> None:
    """Run a normal first night on the demo collection with the real base model, then a night on shuffled qrels."""
    demo = {
        "NIGHTSHIFT_DATA__FORMAT": "demo",
        "NIGHTSHIFT_ENCODER__MODEL": "sentence-transformers/all-MiniLM-L6-v2",
        "NIGHTSHIFT_ENCODER__PASSAGE_TOKENS": "64",
        "NIGHTSHIFT_DATA__MAX_PASSAGES": "800",
        "NIGHTSHIFT_TRAINING__LEARNING_RATE": "5e-5",
        "NIGHTSHIFT_TRAINING__BATCH_SIZE": "32",
        "NIGHTSHIFT_TRAINING__EPOCHS": "1",
        "NIGHTSHIFT_GATE__MARGIN": "0.01",
    }
    assert nightshift("run", **demo).stdout.startswith("Promoted")
    before = pointer(environment)
    (snapshot,) = Path(environment["NIGHTSHIFT_HOME"]).glob("snapshots/*/manifest.json")
    source = tmp_path / "shuffled"
    as_beir(snapshot.parent, source)
    shuffle_qrels(source / "qrels" / "train.tsv")
    shuffled = {
        "NIGHTSHIFT_DATA__FORMAT": "beir",
        "NIGHTSHIFT_DATA__PATH": str(source),
        "NIGHTSHIFT_TRAINING__EPOCHS": "2",
        "NIGHTSHIFT_TRAINING__LEARNING_RATE": "2e-4",
    }
    rejected = nightshift("run", **{**demo, **STRICT, **shuffled})
    assert rejected.returncode == 0, rejected.stderr
    assert rejected.stdout.startswith("Rejected: ")
    assert "worse than the serving release" in rejected.stdout
    assert pointer(environment) == before


def as_beir(snapshot: Path, folder: Path) -> None:
    """Write the rows of a snapshot as a BEIR folder."""
    (folder / "qrels").mkdir(parents=True)
    passages = pq.read_table(snapshot / "passages.parquet").to_pylist()
    rows = [{"_id": row["passage_id"], "title": row["title"], "text": row["text"]} for row in passages]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    queries = pq.read_table(snapshot / "queries.parquet").to_pylist()
    rows = [{"_id": row["query_id"], "text": row["text"]} for row in queries]
    (folder / "queries.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    qrels = pq.read_table(snapshot / "qrels.parquet").to_pylist()
    for split in {row["split"] for row in qrels}:
        lines = [f"{row['query_id']}\t{row['passage_id']}\t1" for row in qrels if row["split"] == split]
        (folder / "qrels" / f"{split}.tsv").write_text("\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n")
