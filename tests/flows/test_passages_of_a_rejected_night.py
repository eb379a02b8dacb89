"""A rejected or suspect night publishes its new, changed, and deleted passages with the serving encoder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from night_results import document, manifests
from things_and_traits import add_lines

from tasks.core.base.ranking import Mode
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.tune import DEFAULT_WEIGHT
from tasks.core.search.searcher import Searcher

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]

RUINED = {"NIGHTSHIFT_TRAINING__LEARNING_RATE": "0.5"}  # training ruins the encoder
# Without dev queries and a probe, only the gate rejects it.
AT_THE_GATE = {
    "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "0",
    "NIGHTSHIFT_GATE__MARGIN": "0.01",
    "NIGHTSHIFT_EVALUATION__RANKING": "dense",
}
AFTER_TRAINING = {"NIGHTSHIFT_ENCODER__START": "serving", "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "1"}
AT_THE_PROBE = {
    "NIGHTSHIFT_TRAINING__EVALUATE_EVERY": "0",
    "NIGHTSHIFT_GATE__MARGIN": "0.01",
    "NIGHTSHIFT_EVALUATION__PROBE_SHARE": "1",
    "NIGHTSHIFT_EVALUATION__PROBE_DEPTH": "1",
    "NIGHTSHIFT_EVALUATION__PROBE_RANDOM": "10",
    "NIGHTSHIFT_EVALUATION__RANKING": "dense",
}


def add_passages(environment: Environment, count: int) -> list[str]:
    """Add passages with a unique word each; return these words."""
    words = [f"{number}8501" for number in range(count)]
    rows = [{"_id": f"n{word}", "title": "", "text": f"the story of a golden river near {word}"} for word in words]
    add_lines(Path(environment["NIGHTSHIFT_DATA__PATH"]), "corpus.jsonl", *rows)
    return words


def remove_passage(environment: Environment, passage_id: str) -> None:
    corpus = Path(environment["NIGHTSHIFT_DATA__PATH"]) / "corpus.jsonl"
    lines = corpus.read_text().splitlines()
    corpus.write_text("".join(f"{line}\n" for line in lines if json.loads(line)["_id"] != passage_id))


def search_words(environment: Environment, words: list[str]) -> tuple[list[str], str]:
    """Return the first BM25 hit of each word, and the release that answered."""
    settings = Settings(home=Path(environment["NIGHTSHIFT_HOME"]))
    with Searcher.open(settings, load_encoder) as searcher:
        answers = searcher.search(words, 1, mode=Mode.LEXICAL)
    assert len({answer.release for answer in answers}) == 1
    return [answer.hits[0].passage_id if answer.hits else "" for answer in answers], answers[0].release


@pytest.mark.usefixtures("served")
@pytest.mark.parametrize(
    ("where", "reason"),
    [
        (AT_THE_GATE, "not shown to be no worse than the serving release"),
        pytest.param(AT_THE_PROBE, "clearly worse than the serving release already on a pool", marks=pytest.mark.slow),
        pytest.param(AFTER_TRAINING, "training did not improve on step 0", marks=pytest.mark.slow),
    ],
)
def test_a_rejected_retrain_publishes_its_passages_even_after_a_kill(
    nightshift: Command, environment: Environment, where: Environment, reason: str
) -> None:
    before = document(nightshift("releases", "--json"))["releases"][0]
    words = add_passages(environment, 100)
    remove_passage(environment, "x7")
    settings = {**environment, **RUINED, **where}
    command = [sys.executable, "-m", "flows.cli", "run"]
    with subprocess.Popen(command, env=settings, stderr=subprocess.PIPE, text=True) as night:
        assert night.stderr is not None
        assert any("the refresh: 101 changed passages" in line for line in night.stderr)
        night.kill()  # rejected, but nothing is published yet
    assert document(nightshift("releases", "--json"))["serving"] == before["release"]

    rejected = nightshift("run", **RUINED, **where)
    assert rejected.returncode == 0, rejected.stderr
    assert rejected.stdout.startswith(f"Rejected: {reason}")
    after = document(nightshift("releases", "--json"))["releases"][0]
    words_of_line = "published 101 passages (100 new, 0 changed, 1 deleted) with the serving encoder as release"
    assert f"{words_of_line} {after['release']}" in rejected.stdout
    assert after["release"] != before["release"]
    assert after["encoder"] == before["encoder"]
    assert after["ranking"]["weight"] == before["ranking"]["weight"]
    hits, release = search_words(environment, words)
    assert release == after["release"]
    assert hits == [f"n{word}" for word in words]
    report = document(nightshift("report", "--json"))
    assert (report["outcome"], report["release"]) == ("Rejected", after["release"])
    assert f"{words_of_line} {after['release']}" in Path(report["report"]).read_text()
    history = pq.read_table(Path(environment["NIGHTSHIFT_HOME"]) / "history.parquet").to_pylist()
    assert history[-1]["made"] == after["release"]


@pytest.mark.usefixtures("served")
def test_a_refresh_whose_new_ranking_is_rejected_publishes_its_passages_with_the_serving_ranking(
    nightshift: Command, environment: Environment
) -> None:
    """The gate rejects the encoder alone, which the settings ask for. The new and deleted passages are still published.

    The serving ranking needs no minimum number of held-out queries, because it serves already.
    """
    home, source = Path(environment["NIGHTSHIFT_HOME"]), Path(environment["NIGHTSHIFT_DATA__PATH"])
    before, indexes = document(nightshift("releases", "--json"))["releases"][0], manifests(home, "indexes")
    words = add_passages(environment, 12)
    remove_passage(environment, "x7")
    add_lines(source, "queries.jsonl", *({"_id": f"w{word}", "text": word} for word in words))  # for BM25 only
    add_lines(source, "qrels/test.tsv", *(f"w{word}\tn{word}\t1" for word in words))
    rejected = nightshift(
        "run",
        NIGHTSHIFT_EVALUATION__RANKING="dense",
        NIGHTSHIFT_GATE__MARGIN="0.01",
        NIGHTSHIFT_GATE__MIN_QUERIES="1000",
    )
    assert rejected.returncode == 0, rejected.stderr
    assert rejected.stdout.startswith("Rejected: not shown to be no worse than the serving release"), rejected.stdout
    after = document(nightshift("releases", "--json"))["releases"][0]
    published = "published 13 passages (12 new, 0 changed, 1 deleted) with the serving encoder as release"
    assert f"{published} {after['release']}" in rejected.stdout
    assert after["ranking"]["weight"] == before["ranking"]["weight"] == DEFAULT_WEIGHT
    assert after["base"] == {}  # not measured, because no encoder was trained
    assert search_words(environment, words) == ([f"n{word}" for word in words], after["release"])
    assert manifests(home, "indexes") == indexes  # nothing is mined, so Lucene indexes nothing
    encoded = {
        vectors["fingerprint"]: vectors["embedded"]
        for vectors in manifests(home, "embeddings")
        if vectors["snapshot"] == after["snapshot"]
    }
    (encoder,) = (each for each in manifests(home, "encoders") if each["fingerprint"] == after["encoder"])
    assert encoded == {encoder["passage_fingerprint"]: 12}  # with the serving encoder only


@pytest.mark.usefixtures("served")
def test_a_suspect_night_publishes_passages_but_not_its_queries(nightshift: Command, environment: Environment) -> None:
    environment["NIGHTSHIFT_DRIFT__MIN_QUERIES"] = "20"
    before = document(nightshift("releases", "--json"))["releases"][0]
    broken = [{"_id": f"b{n}", "text": f"whree wsa hte brkoen riverr {n} sene"} for n in range(30)]
    source = Path(environment["NIGHTSHIFT_DATA__PATH"])
    add_lines(source, "queries.jsonl", *broken)
    add_lines(source, "qrels/test.tsv", *(f"b{n}\tp{n}\t1" for n in range(30)))
    words = add_passages(environment, 3)

    suspect = nightshift("run")
    assert suspect.returncode == 0, suspect.stderr
    assert suspect.stdout.startswith("Suspect: ")
    after = document(nightshift("releases", "--json"))["releases"][0]
    published = "published 3 passages (3 new, 0 changed, 0 deleted) with the serving encoder as release"
    assert f"{published} {after['release']}" in suspect.stdout
    assert after["encoder"] == before["encoder"]
    assert search_words(environment, words) == ([f"n{word}" for word in words], after["release"])
    snapshots = Path(environment["NIGHTSHIFT_HOME"]) / "snapshots"
    queries = [pq.read_table(snapshots / release["snapshot"] / "queries.parquet") for release in (before, after)]
    assert queries[0].equals(queries[1])
