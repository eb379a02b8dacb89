"""A week of an operated retriever: a real server, a worker and the deployments, as `nightshift up` starts them."""

from __future__ import annotations

import base64
import json
import random
import re
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tasks.core.search.searcher import Searcher
from tasks.core.settings import Settings

Command = Callable[..., subprocess.CompletedProcess[str]]
Environment = dict[str, str]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("operated")]

WINDOW = 40
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
PATIENCE = 240  # seconds; on a busy machine a worker needs ten to start a run


class Server:
    """The REST interface of the server that `nightshift up` started, as its user sees it."""

    def __init__(self, url: str, login: str) -> None:
        self.url, self.login = url, login

    def ask(self, path: str, body: object | None = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        basic = base64.b64encode(self.login.encode()).decode()
        headers = {"Content-Type": "application/json", "Authorization": f"Basic {basic}"}
        request = urllib.request.Request(f"{self.url}/api/{path}", data, headers)
        for patience in range(10, -1, -1):  # its database may be busy; Prefect's own client asks again too
            try:
                with urllib.request.urlopen(request) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code != 503 or not patience:
                    raise
                time.sleep(1)
        raise AssertionError

    def start(self, flow: str, **parameters: object) -> str:
        deployment = self.ask(f"deployments/name/{flow}/{flow}")["id"]
        run: str = self.ask(f"deployments/{deployment}/create_flow_run", {"parameters": parameters})["id"]
        return run

    def wait(self, run: str) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found: dict[str, Any] = self.ask(f"flow_runs/{run}")
            if found["state"] and found["state"]["type"] in ENDED:
                return found
            time.sleep(0.5)
        raise TimeoutError(f"{run}: {found['state']}")

    def outcome(self, flow: str, **parameters: object) -> str:
        name: str = self.wait(self.start(flow, **parameters))["state"]["name"]
        return name

    def runs(self, flow: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.ask(
            "flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"}
        )
        return found

    def until(self, true: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < deadline, f"it never came: {what}"
            time.sleep(0.5)


class Feed:
    """The source of the nights: sixty passages, and queries that are added to it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.random, self.asked = folder, random.Random(0), 0
        self.known: set[str] = set()
        passages = map(json.loads, (folder / "corpus.jsonl").read_text().splitlines())
        self.answer = {one["title"]: one["_id"] for one in passages if one["title"]}

    def ordinary(self) -> str:
        one, other = self.random.choices(list(self.answer), k=2)
        return f"find the story of the {one} and one {other}"

    def unfamiliar(self) -> str:
        """Words that are all known, in questions about nothing that stands in a passage."""
        words = ["and", "was", "the", "seen", "find", "a", "story", "of", "one", "told", "near", "where"]
        return "where was " + " ".join(self.random.choices(words, k=9))

    def things_only(self) -> str:
        return " ".join(self.random.choices(sorted({title.split()[1] for title in self.answer}), k=6))

    def add(self, make: Callable[[], str], count: int, split: str) -> None:
        queries, qrels = [], []
        while len(queries) < count:
            text = make()
            if text in self.known:
                continue
            self.known.add(text)
            found = re.search(r"story of the (\w+ \w+) and one", text)
            passage = self.answer[found[1]] if found else f"p{self.asked % 60}"
            queries.append(json.dumps({"_id": f"f{self.asked}", "text": text}) + "\n")
            qrels.append(f"f{self.asked}\t{passage}\t1\n")
            self.asked += 1
        with (self.folder / "queries.jsonl").open("a") as file:
            file.writelines(queries)
        with (self.folder / "qrels" / f"{split}.tsv").open("a") as file:
            file.writelines(qrels)


@pytest.fixture
def told() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A webhook of one's own: its address, and what it was told."""
    heard: list[dict[str, str]] = []

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/alerts", heard
        server.shutdown()


@pytest.fixture
def feed(environment: Environment) -> Feed:
    feed = Feed(Path(environment["NIGHTSHIFT_DATA__PATH"]))
    feed.add(feed.ordinary, 150, "train")
    feed.add(feed.ordinary, 150, "test")
    return feed


@pytest.fixture
def up(nightshift: Command, environment: Environment, feed: Feed, told: tuple[str, list[Any]]) -> Iterator[Server]:
    """Everything that `nightshift up` starts, on a port of its own, with alarms."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment.pop("PREFECT_API_URL")
    environment |= {
        "NIGHTSHIFT_ALERT_URL": told[0],
        "NIGHTSHIFT_DRIFT__MIN_QUERIES": str(WINDOW),
        "NIGHTSHIFT_DRIFT__WINDOW_HOURS": "0",
        "NIGHTSHIFT_DRIFT__RETRAIN_PAIRS": "10",
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
    }
    started = nightshift("up", "--port", str(port))
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        home = Path(environment["NIGHTSHIFT_HOME"])
        yield Server(f"http://127.0.0.1:{port}", (home / "prefect" / "login").read_text().strip())
    finally:
        ended = nightshift("down", "--now")
    assert "ended" in ended.stdout


def served(environment: Environment) -> str:
    with Searcher.open(Settings(home=Path(environment["NIGHTSHIFT_HOME"]))) as searcher:
        return searcher.search(["a river"], 1)[0].release


def test_drift_starts_one_retrain_by_itself_and_ordinary_traffic_none(
    up: Server, feed: Feed, environment: Environment, told: tuple[str, list[dict[str, str]]]
) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"{up.url}/api/flow_runs/count")  # nobody gets in without the login
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
    assert up.outcome("watch-drift") == "Drifting"  # once may be chance
    assert up.runs("retrain-on-drift") == []
    feed.add(feed.unfamiliar, WINDOW, "train")
    assert up.outcome("watch-drift") == "Retrain"
    up.until(lambda: bool(up.runs("retrain-on-drift")), "a retrain that starts by itself")
    (retrain,) = up.runs("retrain-on-drift")
    ended = up.wait(retrain["id"])
    assert ended["state"]["name"] == "Promoted", ended["state"]["message"]
    assert ended["parameters"]["reason"].startswith("drift of queries: low-score share rose in 2")
    assert re.fullmatch(r"retrain-\d{4}-\d\d-\d\d-\d{4}-drift-queries", ended["name"])
    assert served(environment) != before

    for _ in range(2):  # the new encoder knows these; others that it does not know come within the cooldown
        feed.add(feed.things_only, WINDOW, "test")
        assert up.outcome("watch-drift") == "Drifting"  # the cooldown holds it

    (Path(environment["NIGHTSHIFT_DATA__PATH"]) / "corpus.jsonl").write_text("{ not json\n" * 50)
    assert up.outcome("nightly") == "Failed"
    up.until(lambda: bool(told[1]), "word of the failure")
    assert "Failed" in told[1][0]["subject"]
    assert len(up.runs("retrain-on-drift")) == 1


def test_a_night_and_a_retrain_at_the_same_moment_both_end_and_the_newer_serves(
    up: Server, feed: Feed, environment: Environment
) -> None:
    assert up.outcome("nightly") == "Promoted"
    feed.add(feed.ordinary, 60, "train")
    both = [up.start("nightly"), up.start("retrain-on-drift", reason="drift of queries: by hand")]
    first, last = sorted((up.wait(run) for run in both), key=lambda run: run["end_time"])
    assert {run["state"]["name"] for run in (first, last)} <= {"Promoted", "Skipped", "Rejected"}
    work = [_work_began(up, run["id"]) for run in (first, last)]
    assert work[1] >= first["end_time"] or work[0] >= last["end_time"]  # one waited for the other
    home = Path(environment["NIGHTSHIFT_HOME"])
    newest = max(json.loads(file.read_text())["generation"] for file in home.glob("releases/*/manifest.json"))
    assert served(environment).startswith(f"r{newest:04d}-")


def _work_began(up: Server, run: str) -> str:
    tasks = up.ask("task_runs/filter", {"flow_runs": {"id": {"any_": [run]}}, "sort": "EXPECTED_START_TIME_ASC"})
    began: str = min(task["start_time"] for task in tasks)
    return began
