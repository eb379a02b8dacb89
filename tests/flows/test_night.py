from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from night_results import document
from prefect_servers import query_server
from things_and_traits import THINGS, add_lines
from warm_commands import run_command

from tasks.core.base.settings import Settings
from tasks.core.evaluation.tune import DEFAULT_WEIGHT
from tasks.core.release.vector_stores import open_publisher

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]


def run_alone(environment: Environment, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new interpreter, which imports everything itself and frees it at exit."""
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=300)


def append(environment: Environment, name: str, row: dict[str, str]) -> None:
    add_lines(Path(environment["NIGHTSHIFT_DATA__PATH"]), name, row)


def manifests(environment: Environment) -> dict[Path, int]:
    home = Path(environment["NIGHTSHIFT_HOME"])
    paths = [path for path in home.glob("*/*/manifest.json") if not path.parent.name.startswith(".")]
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.usefixtures("served")
def test_consecutive_nights_skip_refresh_and_respect_a_rollback(
    nightshift: Command, environment: Environment, prefect_server: str
) -> None:
    """Run a first night, an idle night, a refresh, a search, and a rollback, as in a typical week."""
    releases = document(nightshift("releases", "--json"))
    (release,) = releases["releases"]
    assert releases["serving"] == release["release"]
    assert set(release) >= {"release", "created", "encoder", "collection", "snapshot", "passages"}
    assert release["passages"] == 100
    assert release["previous"] is None
    for system in ("metrics", "bm25", "base", "dense"):
        assert set(release[system]) == {"ndcg@10", "mrr@10", "recall@100", "map@100"}
    home, ranking = Path(environment["NIGHTSHIFT_HOME"]), release["ranking"]
    assert ranking["weight"] == DEFAULT_WEIGHT  # four dev queries are too few to choose a weight
    assert (home / "postings" / ranking["postings"] / "manifest.json").is_file()
    identity = open_publisher(home, Settings(home=home).milvus).identity(release["collection"])
    assert json.loads(identity.ranking) == ranking
    report = Path(document(nightshift("report", "--json"))["report"]).read_text()
    assert "<h2>Ranking: hybrid, 75% dense + 25% BM25</h2>" in report
    arms = [release[system]["ndcg@10"] for system in ("dense", "bm25", "base")]
    assert release["metrics"]["ndcg@10"] >= max(arms)

    before = manifests(environment)
    idle = run_alone(environment, "run", PYTHONPROFILEIMPORTTIME="1")
    assert idle.returncode == 0, idle.stderr
    imported = {line.rpartition("|")[2].strip() for line in idle.stderr.splitlines() if line.startswith("import time:")}
    heavy = {"torch", "transformers", "numba", "scipy.stats", "matplotlib", "duckdb"}
    assert imported & {"flows.nightly", *heavy} == {"flows.nightly"}
    assert "no training and no embedding" in idle.stdout
    assert manifests(environment) == before
    assert document(nightshift("drift", "--json"))["verdict"] == "skip"

    append(environment, "corpus.jsonl", {"_id": "fresh", "title": "", "text": "a silent glacier and a broken engine"})
    drift = document(nightshift("drift", "--json"))
    assert drift["verdict"] == "refresh"
    assert drift["passages"] == {"new": 1, "changed": 0, "gone": 0}
    refreshed = nightshift("run", "--reason", "new passage", NIGHTSHIFT_MILVUS__SAMPLES="32")
    assert refreshed.stdout.startswith("Promoted: release r0002-"), refreshed.stdout + refreshed.stderr
    newest, oldest = document(nightshift("releases", "--json"))["releases"]
    assert newest["encoder"] == oldest["encoder"]
    assert newest["previous"] is not None
    assert newest["ranking"]["weight"] == ranking["weight"]
    assert newest["ranking"]["postings"] != ranking["postings"]
    assert newest["bm25"]
    assert (newest["base"], "(BM25" in refreshed.stdout, "base" in refreshed.stdout) == ({}, True, False)

    changes = document(nightshift("compare", oldest["release"], newest["release"], "--json"))["settings"]
    assert {"name": "milvus.samples", "before": "64", "after": "32"} in changes
    assert {change["name"] for change in changes} <= {"milvus.samples", "home", "data.path"}  # the home was copied

    query = "a silent glacier and a broken engine"
    answer = document(nightshift("search", query, "-k", "3", "--json"))
    assert answer["release"] == newest["release"]
    assert [hit["rank"] for hit in answer["hits"]] == [1, 2, 3]
    assert set(answer["hits"][0]) == {"rank", "score", "passage_id", "title", "text"}
    assert "fresh" in {hit["passage_id"] for hit in answer["hits"]}
    first = {
        mode: document(nightshift("search", query, "-k", "1", "--mode", mode, "--json"))["hits"][0]
        for mode in ("lexical", "dense", "hybrid")
    }
    assert first["lexical"]["passage_id"] == "fresh"  # it has the most words of the query
    assert first["hybrid"] == answer["hits"][0]  # the release's own mode
    assert first["lexical"]["score"] != first["dense"]["score"]  # BM25 scores are not cosines

    back = nightshift("rollback")
    assert back.returncode == 0, back.stderr
    answer = document(nightshift("search", query, "--json"))
    assert answer["release"] == oldest["release"]
    assert "fresh" not in {hit["passage_id"] for hit in answer["hits"]}

    again = nightshift("run")
    assert again.returncode == 0, again.stderr
    assert "rolled back manually" in again.stdout  # a rolled-back release is not published again
    assert "did not publish 1 passage (1 new, 0 changed, 0 deleted): the gate rejects them" in again.stdout
    assert document(nightshift("releases", "--json"))["serving"] == oldest["release"]
    forward = nightshift("rollback", "--to", newest["release"])
    assert forward.returncode == 0, forward.stderr
    assert document(nightshift("drift", "--json"))["verdict"] == "skip"

    runs = query_server(prefect_server, "flow_runs", {"sort": "EXPECTED_START_TIME_DESC"})
    assert {"Promoted", "Skipped", "Rejected"} <= {run["state"]["name"] for run in runs}
    artifacts = {artifact["key"]: artifact["data"] for artifact in query_server(prefect_server, "artifacts/latest", {})}
    newest = next(run["name"] for run in runs if run["state"]["name"] == "Promoted")
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d-\d{4}-new-passage", newest)
    assert "- Report: `" in artifacts["night-report"]
    assert {
        "data-contract",
        "mined-negatives",
        "embedding",
        "evaluation",
        "release-card",
        "night-report",
    } <= artifacts.keys()


@pytest.mark.parametrize(
    "lines",
    [
        pytest.param(["BM25: indexing"], marks=pytest.mark.slow),
        pytest.param(["mined 36 negatives"], marks=pytest.mark.slow),
        pytest.param(["step 24 of 24"], marks=pytest.mark.slow),
        ["shard 3 of 4", "40 of 100 passages inserted"],  # killed again when it resumes
        pytest.param(["count equal"], marks=pytest.mark.slow),
    ],
    ids=", then ".join,
)
def test_a_night_killed_at_any_log_line_resumes_from_its_last_finished_step(
    nightshift: Command, environment: Environment, lines: list[str]
) -> None:
    command, finished = [sys.executable, "-m", "flows.cli", "--debug", "run"], {}
    for line in lines:
        with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as night:
            assert night.stderr is not None
            assert any(line in logged for logged in night.stderr), f"the night never logged {line!r}"
            night.kill()
        after = manifests(environment)
        assert {path: after[path] for path in finished} == finished
        finished = after
    again = nightshift("run")
    assert again.returncode == 0, again.stderr
    assert again.stdout.startswith("Promoted")
    after = manifests(environment)
    assert {path: after[path] for path in finished} == finished  # no finished artifact was rebuilt
    assert document(nightshift("search", "a golden river", "--json"))["hits"]


@pytest.mark.usefixtures("served")
def test_a_failed_night_exits_1_and_leaves_the_serving_release(nightshift: Command, environment: Environment) -> None:
    served = document(nightshift("releases", "--json"))["serving"]
    source = Path(environment["NIGHTSHIFT_DATA__PATH"])
    (source / "corpus.jsonl").write_text("{ not json\n" * 50)
    failed = run_alone(environment, "run")
    assert failed.returncode == 1
    assert "corpus.jsonl" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert "[1/8] validate beir data" in failed.stderr
    last = failed.stderr.splitlines()[-1]  # no library prints after the error
    assert last.startswith(
        f"The night failed in the step “validate beir data”. Release {served} still serves. Report: "
    )
    assert document(nightshift("releases", "--json"))["serving"] == served
    assert document(nightshift("search", "a river", "--json"))["release"] == served
    report = document(nightshift("report", "--json"))  # a failed night has a page
    assert report["outcome"] == "Failed"
    assert "corpus.jsonl" in report["why"]
    page = Path(report["report"])
    text = page.read_text()
    assert "<b>validate beir data</b> failed" in text
    assert f"<code>{served}</code></a> still serves" in text
    assert "corpus.jsonl:20<" in text
    assert "{ not json" in text
    for link in re.findall(r'href="(\.\.[^"]*)"', text):
        assert (page.parent / link).exists(), link
    assert page.name in (page.parent / "index.html").read_text()


@pytest.mark.usefixtures("served")
def test_a_night_that_fails_late_reports_its_finished_steps(nightshift: Command, environment: Environment) -> None:
    corpus = Path(environment["NIGHTSHIFT_DATA__PATH"]) / "corpus.jsonl"
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[:-1]))
    failed = nightshift("run", NIGHTSHIFT_MINING__SEED="1", NIGHTSHIFT_MILVUS__MAX_SHRINK="0")
    assert failed.returncode == 1
    text = Path(document(nightshift("report", "--json"))["report"]).read_text()
    assert re.search(r"<b>publish \w+</b> failed", text)
    assert "embed, challenger" in text
    changed = text[text.index("settings differ from") : text.index("settings in effect")]
    assert "mining.seed" in changed
    assert "milvus.max_shrink" in changed
    assert "mining.depth" not in changed


@pytest.mark.slow
def test_an_interrupted_night_prints_a_single_line_and_resumes(nightshift: Command, environment: Environment) -> None:
    command = [sys.executable, "-m", "flows.cli", "run"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as night:
        assert night.stderr is not None
        assert any("queries: 60 read" in line for line in night.stderr)
        night.send_signal(signal.SIGINT)
        rest = night.stderr.read().splitlines()
    assert night.returncode == 130
    assert rest[-1].startswith("interrupted: the night stopped.")
    assert not [line for line in rest if "nanobind" in line or "Crash" in line]
    assert nightshift("run").stdout.startswith("Promoted")


def test_the_error_names_a_missing_split(nightshift: Command) -> None:
    failed = nightshift("run", NIGHTSHIFT_EVALUATION__SPLIT="tset")
    assert failed.returncode == 1
    assert "split 'tset' has no judged query; available splits: dev, test, train" in failed.stderr
    assert "Traceback" not in failed.stderr


def test_quarantine_lists_refused_rows(nightshift: Command, environment: Environment) -> None:
    append(environment, "corpus.jsonl", {"_id": "empty", "title": "", "text": " "})
    assert nightshift("run", "--dry-run").returncode == 0
    refusals = document(nightshift("quarantine", "--json"))
    assert refusals["in"]["passages"] == refusals["accepted"]["passages"] + 1 == 101
    assert refusals["quarantined"] == {"passages": 1, "queries": 0, "qrels": 0}
    (rule,) = refusals["rules"]
    assert (rule["table"], rule["rows"]) == ("passages", 1)
    assert rule["samples"][0]["file"].endswith("corpus.jsonl")
    assert rule["samples"][0]["row"] == 101


@pytest.mark.usefixtures("served")
def test_drift_without_new_training_data_ends_unlabeled_and_lists_the_queries(
    nightshift: Command, environment: Environment, prefect_server: str, tmp_path: Path
) -> None:
    queries = [f"{'of ' * (6 + n % 3)}{thing} {other}" for n, thing in enumerate(THINGS) for other in THINGS[:3]]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps({"query": query}) + "\n" for query in queries))
    drift = {
        "NIGHTSHIFT_DRIFT__QUERIES": str(tmp_path / "log.jsonl"),
        "NIGHTSHIFT_DRIFT__MIN_QUERIES": "20",
        "NIGHTSHIFT_DRIFT__CONFIRM_WINDOWS": "1",
        "NIGHTSHIFT_DRIFT__LOW_SCORE_EFFECT": "0",
    }
    assert document(nightshift("drift", "--json", **drift))["verdict"] == "label"
    night = nightshift("run", **drift)
    assert night.returncode == 0, night.stderr
    assert night.stdout.startswith("Unlabeled: a person must label queries")
    file = Path(environment["NIGHTSHIFT_HOME"]) / "drift/unfamiliar-queries.jsonl"
    first = json.loads(file.read_text().splitlines()[0])["query"]
    assert first in night.stderr
    assert first in Path(document(nightshift("report", "--json"))["report"]).read_text()
    (artifact,) = (
        artifact
        for artifact in query_server(prefect_server, "artifacts/latest", {})
        if artifact["key"] == "unfamiliar-queries"
    )
    assert first in artifact["data"]


def test_wrong_usage_exits_2(nightshift: Command) -> None:
    assert nightshift("search").returncode == 2
    assert nightshift("run", "--no-such-option").returncode == 2


@pytest.mark.usefixtures("served")
def test_a_night_with_two_rounds_and_separate_encoders_runs_without_a_configured_server(
    environment: Environment,
) -> None:
    alone = {name: value for name, value in environment.items() if name != "PREFECT_API_URL"}
    alone |= {"NIGHTSHIFT_MINING__ROUNDS": "2", "NIGHTSHIFT_ENCODER__SHARED": "false"}
    done = run_command(alone, "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Promoted")
    assert "Traceback" not in done.stderr
    sources = {
        source
        for file in Path(environment["NIGHTSHIFT_HOME"]).glob("negatives/*/negatives.parquet")
        for source in pq.read_table(file)["source"].to_pylist()
    }
    assert sources == {"bm25", "dense", "random"}  # the second round is mined with the encoder of the first
