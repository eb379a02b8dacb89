"""A week of an operated retriever with real server, worker, and deployments, as `nightshift up` starts them."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from operated_server import Operated

from tasks.core.base.settings import Settings
from tasks.core.search.searcher import Searcher

Environment = dict[str, str]

pytestmark = pytest.mark.slow

WINDOW = 40
BOUND = 120  # seconds, promised in infra/docs/operations.md
# Log lines of a worker about a night that the test makes fail.
EXPECTED_ERRORS = ["(Flow|Task) run '", "^Traceback", "Process for flow run .* exited with status code: 1"]


class Feed:
    """The source of the nights: sixty passages, and queries that tests add."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.random, self.count = folder, random.Random(0), 0
        self.texts_added: set[str] = set()
        passages = map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())
        self.answer = {row["title"]: row["_id"] for row in passages if row["title"]}

    def ordinary(self) -> str:
        first, second = self.random.choices(list(self.answer), k=2)
        return f"find the story of the {first} and one {second}"

    def unfamiliar(self) -> str:
        """Return a query of known words that no passage answers."""
        words = ["and", "was", "the", "seen", "find", "a", "story", "of", "one", "told", "near", "where"]
        return "where was " + " ".join(self.random.choices(words, k=9))

    def things_only(self) -> str:
        return " ".join(self.random.choices(sorted({title.split()[1] for title in self.answer}), k=6))

    def add(self, make: Callable[[], str], count: int, split: str) -> None:
        queries, qrels = [], []
        while len(queries) < count:
            text = make()
            if text in self.texts_added:
                continue
            self.texts_added.add(text)
            match = re.search(r"story of the (\w+ \w+) and one", text)
            passage = self.answer[match[1]] if match else f"p{self.count % 60}"
            queries.append(json.dumps({"_id": f"f{self.count}", "text": text}) + "\n")
            qrels.append(f"f{self.count}\t{passage}\t1\n")
            self.count += 1
        with (self.folder / "queries.jsonl").open("a") as file:
            file.writelines(queries)
        with (self.folder / "qrels" / f"{split}.tsv").open("a") as file:
            file.writelines(qrels)


@pytest.fixture
def feed(environment: Environment) -> Feed:
    feed = Feed(Path(environment["NIGHTSHIFT_DATA__PATH"]))
    feed.add(feed.ordinary, 150, "train")
    feed.add(feed.ordinary, 150, "test")
    return feed


@pytest.fixture
def up(operated: Callable[..., Operated], environment: Environment, feed: Feed) -> Iterator[Operated]:
    """Run `nightshift up` on a free port, with alerts."""
    environment |= {
        "NIGHTSHIFT_DRIFT__MIN_QUERIES": str(WINDOW),
        "NIGHTSHIFT_DRIFT__WINDOW_HOURS": "0",
        "NIGHTSHIFT_DRIFT__RETRAIN_PAIRS": "10",
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
    }
    with operated() as server:
        yield server


def served(environment: Environment) -> str:
    with Searcher.open(Settings(home=Path(environment["NIGHTSHIFT_HOME"]))) as searcher:
        return searcher.search(["a river"], 1)[0].release


def test_drift_starts_a_single_retrain_automatically_and_ordinary_traffic_starts_none(
    up: Operated, feed: Feed, environment: Environment, alerts: tuple[str, list[dict[str, str]]]
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{up.url}/api/flow_runs/count")  # the login is required
    first = up.wait(up.start("nightly", reason="schedule"))
    assert first["state"]["name"] == "Promoted"
    assert re.fullmatch(r"nightly-\d{4}-\d\d-\d\d-\d{4}-schedule", first["name"])
    assert set(first["tags"]) >= {"nightshift", "release"}
    before = served(environment)

    for _ in range(20):
        feed.add(feed.ordinary, WINDOW, "test")
        assert up.outcome("watch-drift") == "Quiet"
    assert up.runs("retrain-on-drift") == []

    feed.add(feed.unfamiliar, WINDOW, "train")
    assert up.outcome("watch-drift") == "Drifting"  # the first window starts nothing
    assert up.runs("retrain-on-drift") == []
    feed.add(feed.unfamiliar, WINDOW, "train")
    assert up.outcome("watch-drift") == "Retrain"
    up.until(lambda: bool(up.runs("retrain-on-drift")), "an automatic retrain")
    (retrain,) = up.runs("retrain-on-drift")
    ended = up.wait(retrain["id"])
    assert ended["state"]["name"] == "Promoted", ended["state"]["message"]
    assert ended["parameters"]["reason"].startswith("drift of queries: evidence ")
    assert re.fullmatch(r"retrain-\d{4}-\d\d-\d\d-\d{4}-drift-queries", ended["name"])
    assert served(environment) != before

    for _ in range(2):  # the new encoder knows these queries; further unfamiliar queries come within the cooldown
        feed.add(feed.things_only, WINDOW, "test")
        assert up.outcome("watch-drift") == "Drifting"  # the cooldown prevents a retrain

    up.allowed += EXPECTED_ERRORS
    (Path(environment["NIGHTSHIFT_DATA__PATH"]) / "corpus.jsonl").write_text("{ not json\n" * 50)
    assert up.outcome("nightly") == "Failed"
    up.until(lambda: bool(alerts[1]), "an alert about the failure")
    assert "Failed" in alerts[1][0]["subject"]
    assert len(up.runs("retrain-on-drift")) == 1


def test_a_concurrent_night_and_retrain_both_finish_and_the_newer_release_serves(
    up: Operated, feed: Feed, environment: Environment
) -> None:
    assert up.outcome("nightly") == "Promoted"
    feed.add(feed.ordinary, 60, "train")
    both = [up.start("nightly"), up.start("retrain-on-drift", reason="drift of queries: manual")]
    first, last = sorted((up.wait(run) for run in both), key=lambda run: run["end_time"])
    assert {run["state"]["name"] for run in (first, last)} <= {"Promoted", "Skipped", "Rejected"}
    work = [_work_start(up, run["id"]) for run in (first, last)]
    assert work[1] >= first["end_time"] or work[0] >= last["end_time"]  # the runs did not overlap
    home = Path(environment["NIGHTSHIFT_HOME"])
    newest = max(json.loads(file.read_text())["generation"] for file in home.glob("releases/*/manifest.json"))
    assert served(environment).startswith(f"r{newest:04d}-")


def test_the_next_night_starts_soon_after_worker_and_run_are_killed(up: Operated, feed: Feed) -> None:
    killed = up.start("nightly", reason="schedule")
    up.until(lambda: bool(_tasks(up, killed)), "tasks of a night")
    up.allowed += EXPECTED_ERRORS
    process = int(up.request(f"flow_runs/{killed}")["infrastructure_pid"])
    for number in (up.process("worker"), process):
        os.kill(number, signal.SIGKILL)
    at = time.monotonic()
    following = up.start("nightly", reason="schedule")
    up.until(lambda: bool(_tasks(up, following)), "tasks of the next night")
    assert time.monotonic() - at < BOUND
    assert up.wait(following)["state"]["name"] == "Promoted"
    assert up.wait(killed)["state"]["name"] == "Crashed"


def test_a_night_survives_a_restart_of_its_server(
    up: Operated, environment: Environment, alerts: tuple[str, list[dict[str, str]]]
) -> None:
    run = up.start("nightly", reason="schedule")
    up.until(lambda: bool(_tasks(up, run)), "tasks of a night")
    # The clients of the worker lose their connections, log errors, and recover.
    up.allowed += [r"prefect\.(worker|runner|events|_internal)", "Exception in callback FlowRun", "^Traceback"]
    os.kill(up.process("server"), signal.SIGKILL)
    up.until(lambda: bool(alerts[1]), "an alert about the dead server")
    assert alerts[1][0]["subject"] == "Nightshift: the Prefect server was dead"
    assert up.wait(run)["state"]["name"] == "Promoted"
    assert served(environment).startswith("r0001-")


def _work_start(up: Operated, run: str) -> str:
    start: str = min(task["start_time"] for task in _tasks(up, run))
    return start


def _tasks(up: Operated, run: str) -> list[dict[str, str]]:
    tasks: list[dict[str, str]] = up.request("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}})
    return tasks
