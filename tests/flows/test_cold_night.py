"""Nights on a corpus without queries: init, a release without an accepted training, a promoted one, and labels."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from chat_server import chat_server
from night_results import document, manifests
from things_and_traits import THINGS, TRAITS

pytestmark = pytest.mark.slow

SETTINGS = """
[gate]
min_queries = 5
margin = 0.5
bm25_floor = false
[generate]
url = "{url}"
model = "writer"
budget = 200
"""


def write_corpus(folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"title": f"the {trait} {thing}", "text": f"one story of a {thing} near the market was {trait} and seen {n}"}
        for n, (trait, thing) in enumerate((trait, thing) for trait in TRAITS for thing in THINGS)
    ]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_corpus_without_queries_is_served(
    nightshift: Callable[..., subprocess.CompletedProcess[str]], environment: dict[str, str], tmp_path: Path
) -> None:
    for name in list(environment):
        if name.startswith(("NIGHTSHIFT_DATA", "NIGHTSHIFT_GATE")):
            del environment[name]
    home = Path(environment["NIGHTSHIFT_HOME"])
    file = tmp_path / "night.toml"
    written = nightshift("init", "--cold", str(write_corpus(tmp_path / "corpus")), "--to", str(file))
    assert written.returncode == 0, written.stderr
    suggested = file.read_text()
    assert 'split = "synthetic"' in suggested

    with chat_server() as chat:
        file.write_text(suggested + SETTINGS.format(url=chat.url))
        still = {"NIGHTSHIFT_TRAINING__LEARNING_RATE": "1e-12"}
        first = nightshift("run", "--settings", str(file), **still)
        assert first.returncode == 0, first.stderr
        assert "training changed nothing" in first.stdout  # no training is accepted …
        assert "with the base model and BM25 as release r0001" in first.stdout  # … and a release serves
        assert "on synthetic queries" in first.stdout
        sent = len(chat.prompts)
        assert sent == 60
        (page,) = home.glob("reports/2*.html")
        assert "the quality on real queries is unknown" in page.read_text()
        assert "No person judged these pairs" in page.read_text()
        (synthesis,) = manifests(home, "synthetic")
        assert {"title", "generated"} <= set(synthesis["kept"])
        answer = document(nightshift("search", "the silent violin", "--json", "--settings", str(file)))
        assert answer["hits"][0]["title"] == "the silent violin"

        again = nightshift("run", "--settings", str(file), **still)
        assert again.stdout.startswith("Skipped"), again.stderr

        trained = nightshift("run", "--settings", str(file))
        assert trained.stdout.startswith("Promoted: release r0002"), trained.stderr
        assert len(chat.prompts) == sent
        splits = {tuple(sorted(manifest["splits"])) for manifest in manifests(home, "snapshots")}
        assert splits == {(), ("train",), ("synthetic", "train")}  # of the source, the candidates, and the nights

        (tmp_path / "queries.txt").write_text("the silent violin\n")
        labels = nightshift(
            *("label", "--queries", str(tmp_path / "queries.txt"), "--to", str(tmp_path / "labels"), "-k", "3"),
            *("--settings", str(file)),
        )
        assert labels.returncode == 0, labels.stderr
        assert "judged 3 of 3 pairs; 1 queries without labels of people got labels" in labels.stdout
        assert "the agreement is unknown" in labels.stdout
    ids = pq.read_table(next(home.glob("synthetic/[!.]*/pairs.parquet")))["query_id"].to_pylist()
    assert all(query_id.startswith("synthetic-") for query_id in ids)
