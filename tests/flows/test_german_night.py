"""A German collection from `init` to search: BM25 finds inflected words in mining, evaluation, and serving."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from german_collection import write_german_collection

pytestmark = pytest.mark.slow


def test_a_night_finds_inflected_words(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    source = write_german_collection(tmp_path / "deutsch")
    home = Path(environment["NIGHTSHIFT_HOME"])
    for name in ("NIGHTSHIFT_DATA__FORMAT", "NIGHTSHIFT_DATA__PATH"):
        del environment[name]
    environment["NIGHTSHIFT_MINING__MARGIN"] = "1"  # an untrained encoder scores all passages alike
    file = str(tmp_path / "night.toml")
    written = nightshift("init", str(source), "--to", file)
    assert written.returncode == 0, written.stderr
    assert "language de" in written.stdout
    assert 'language = "de"' in Path(file).read_text()

    night = nightshift("run", "--settings", file)
    assert night.returncode == 0, night.stderr
    assert "BM25 has no hit" not in night.stderr
    best_hits = {
        (row["query_id"], row["passage_id"])
        for run in home.glob("runs/*/run.parquet")
        for row in pq.read_table(run).to_pylist()
        if row["rank"] == 1
    }
    assert {(f"q{n}", f"p{n}") for n in range(36)} <= best_hits  # the training queries, with which mining begins
    sources = [pq.read_table(table)["source"].to_pylist() for table in home.glob("negatives/*/negatives.parquet")]
    assert "bm25" in {source for table in sources for source in table}

    (release,) = json.loads(nightshift("releases", "--json", "--settings", file).stdout)["releases"]
    assert release["bm25"]["ndcg@10"] > 0.95
    search = nightshift("search", "ein altes Haus", "--mode", "lexical", "--json", "--settings", file)
    assert search.returncode == 0, search.stderr
    assert json.loads(search.stdout)["hits"][0]["passage_id"] == "p0"  # Häuser
