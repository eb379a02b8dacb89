"""What a night publishes where its encoder alone is worse than BM25."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

from night_results import document

Command = Callable[..., subprocess.CompletedProcess[str]]


def test_an_encoder_far_below_bm25_is_rejected_alone_and_promoted_with_the_ranking_that_dev_queries_choose(
    nightshift: Command, environment: dict[str, str]
) -> None:
    for split, numbers in {"train": range(10), "dev": range(10, 40)}.items():  # enough dev queries to tune
        rows = "".join(f"q{n}\tp{n}\t1\n" for n in numbers)
        file = Path(environment["NIGHTSHIFT_DATA__PATH"]) / "qrels" / f"{split}.tsv"
        file.write_text("query-id\tcorpus-id\tscore\n" + rows)
    worse = {
        "NIGHTSHIFT_GATE__BM25_FLOOR": "true",
        "NIGHTSHIFT_GATE__MARGIN": "0",
        "NIGHTSHIFT_TRAINING__MAX_STEPS": "1",
    }
    rejected = nightshift("run", NIGHTSHIFT_EVALUATION__RANKING="dense", **worse)
    assert rejected.returncode == 0, rejected.stderr
    assert rejected.stdout.startswith("Rejected: clearly worse than BM25")
    assert document(nightshift("releases", "--json")) == {"serving": None, "releases": []}
    searched = nightshift("search", "a river")
    assert searched.returncode == 1
    assert "no release yet" in searched.stderr

    promoted = nightshift("run", **worse)
    assert promoted.stdout.startswith("Promoted"), promoted.stdout + promoted.stderr
    (release,) = document(nightshift("releases", "--json"))["releases"]
    assert release["metrics"]["ndcg@10"] >= release["bm25"]["ndcg@10"] > release["dense"]["ndcg@10"] + 0.2
    report = Path(document(nightshift("report", "--json"))["report"]).read_text()
    assert "clearly worse than BM25" not in report
    assert re.search("(better than|not clearly (better|worse) than) BM25", report)
    hits = document(nightshift("search", "where was the golden river seen", "-k", "1", "--json"))["hits"]
    assert hits[0]["title"] == "golden river"
