"""Votes over HTTP: fuzzed requests leave everything as it was, and an acknowledged vote survives a killed service."""

from __future__ import annotations

import json
import random
import signal
import threading
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small
from voting_service import voting_service

from tasks.core.base.files import file_digest, files_under
from tasks.core.base.sections.feedback import FeedbackSettings
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.search.feedback import BODY_BYTES
from tasks.core.search.http import make_app
from tasks.core.search.service import Service
from tasks.core.sources.feedback_log import FOLDER, Origin, Record, append_records, log_file

LOCAL, TOKEN = "http://127.0.0.1", {"authorization": "Bearer secret"}
ENOUGH = 100  # acknowledged votes before the services are killed
VOTE = {"query": "lamp n3", "passage_id": "p0003", "verdict": "answers", "release": "r0001"}


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """Settings of a home with a release."""
    settings = small(tmp_path_factory.mktemp("feedback") / "var")
    release_night(settings)
    return settings


@pytest.fixture
def settings(released):
    """The same home, without votes of other tests."""
    for file in (released.home / FOLDER).glob("*"):
        file.unlink()
    return released


def serving(settings, **feedback):
    """Return a client of a service with a token that collects votes."""
    chosen = FeedbackSettings(**{"collect": True, "per_minute": 10**6, **feedback})
    changes = {"feedback": chosen, "service": ServiceSettings(token="secret")}
    app = make_app(Service.open(settings.model_copy(update=changes), HashingEncoder))
    return TestClient(app, base_url=LOCAL, raise_server_exceptions=False)


def logged(settings):
    """Return the records of the log; every line must be one."""
    file = log_file(settings.home, Origin.FEEDBACK)
    return [Record.model_validate_json(line) for line in file.read_bytes().splitlines()] if file.exists() else []


def fingerprints(home):
    """Return the digests of all files of a home but the votes."""
    return {file: file_digest(file) for file in files_under(home) if file.parent.name != FOLDER}


def test_a_vote_is_recorded_under_a_pseudonym(settings):
    with serving(settings) as client:
        assert client.post("/feedback", json=VOTE, headers=TOKEN).json() == {"recorded": "answers"}
        assert client.get("/release", headers=TOKEN).json()["feedback"] is True
        first, second = (client.get(f"/{path}", headers=TOKEN) for path in ("feedback/votes.jsonl", "feedback"))
    assert (first.status_code, second.status_code) == (404, 405)  # no request returns votes
    (record,) = logged(settings)
    assert record.model_dump(include=set(VOTE), mode="json") == VOTE
    assert record.judge.startswith("visitor-")
    assert "testclient" not in log_file(settings.home, Origin.FEEDBACK).read_text()
    with serving(settings) as client:  # another process gives a visitor the same pseudonym
        client.post("/feedback", json=VOTE, headers=TOKEN)
    assert len({record.judge for record in logged(settings)}) == 1


def test_without_the_setting_there_is_no_such_address(settings):
    with serving(settings, collect=False) as client:
        assert client.post("/feedback", json=VOTE, headers=TOKEN).status_code == 404
        assert client.get("/release", headers=TOKEN).json()["feedback"] is False
    assert not (settings.home / FOLDER / "votes.jsonl").exists()


def test_a_visitor_who_votes_too_often_has_to_wait(settings):
    with serving(settings, per_minute=3) as client:
        answers = [client.post("/feedback", json=VOTE, headers=TOKEN) for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429, 429]
    assert answers[-1].headers["retry-after"]
    assert len(logged(settings)) == 3


def test_a_full_log_refuses_votes_while_searches_are_answered(settings):
    file = log_file(settings.home, Origin.FEEDBACK)
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"\n" * 2**20)
    with serving(settings, megabytes=1) as client:
        assert client.post("/feedback", json=VOTE, headers=TOKEN).status_code == 507
        assert client.post("/search", json={"query": "lamp"}, headers=TOKEN).status_code == 200
    assert file.stat().st_size == 2**20


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None])
def test_a_page_of_another_site_cannot_vote(settings, kind):
    """Browsers send these types to other sites without asking first."""
    with serving(settings) as client:
        headers = TOKEN if kind is None else {**TOKEN, "content-type": kind}
        answer = client.post("/feedback", content=json.dumps(VOTE), headers=headers)
    assert answer.status_code in (415, 422)
    assert logged(settings) == []


ODD = [None, 3, -1e308, True, [], {}, [{}], "", " ", "\0", "\ud800", "\u202e", "x" * 5000, "𝔘" * 4000, "a\nb\r\n{}"]
EXPECTED = {  # kind of request -> status of the response; 503 means that too many votes wait
    "valid": {200, 503},
    "unknown": {200, 503},
    "field": {200, 422, 503},  # some odd texts are texts
    "extra": {422},
    "missing": {422},
    "raw": {400, 422},
    "huge": {413, 422},
    "no token": {401},
}


def fuzzed(rng):
    """Return a random request: its kind, its body, and its headers."""
    fields, kind = dict(VOTE), rng.choice(list(EXPECTED))
    if kind == "field":
        fields[rng.choice(list(VOTE))] = rng.choice([*ODD, {"nested": ODD}])
    elif kind == "extra":
        fields[rng.choice(["judge", "judged_at", "__proto__", "origin"])] = rng.choice(ODD)
    elif kind == "missing":
        del fields[rng.choice(["query", "passage_id", "verdict"])]
    elif kind == "unknown":
        fields |= {"passage_id": f"none-{rng.random()}", "release": "r9999", "query": "'; DROP TABLE votes; --"}
    elif kind == "huge":
        fields["query"] = "x" * rng.choice([5000, BODY_BYTES, 2**21])
    body = json.dumps(fields).encode()
    if kind == "raw":
        body = rng.choice([b"", b"{", b"\xff\xfe", b"[" * 3000, body[:-1], body * 2, b"null", rng.randbytes(200)])
    headers = {"content-type": "application/json"} | ({} if kind == "no token" else TOKEN)
    return kind, body, headers


def test_200_fuzzed_votes_leave_the_service_alive_the_log_valid_and_nothing_else_changed(settings):
    rng = random.Random(0)
    requests = [fuzzed(rng) for _ in range(200)]
    with serving(settings) as client:
        before, answered = fingerprints(settings.home), client.post("/search", json={"query": "lamp"}, headers=TOKEN)

        def send(request):
            return client.post("/feedback", content=request[1], headers=request[2])

        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(send, requests))
        again = client.post("/search", json={"query": "lamp"}, headers=TOKEN)
        assert again.json()["answers"] == answered.json()["answers"]
        assert client.get("/healthz").json()["status"] == "ok"
        assert fingerprints(settings.home) == before
    for (kind, *_), answer in zip(requests, answers, strict=True):
        assert answer.status_code in EXPECTED[kind], (kind, answer.text[:200])
        assert sorted(answer.json()) == (["recorded"] if answer.status_code == 200 else ["error", "next"])
    recorded = sum(answer.status_code == 200 for answer in answers)
    assert recorded
    assert len(logged(settings)) == recorded


def test_no_acknowledged_vote_is_lost_when_services_are_killed(settings):
    acknowledged = set()
    enough = threading.Event()

    def vote_until_killed(address, name):
        for number in range(100_000):
            vote = {**VOTE, "query": f"{name} {number} " + "ü" * (number % 3000)}
            headers = {"content-type": "application/json"}
            message = urllib.request.Request(f"{address}/feedback", json.dumps(vote).encode(), headers)
            try:
                urllib.request.urlopen(message, timeout=30).read()
            except (OSError, urllib.error.URLError) as error:
                if getattr(error, "code", None) == 503:
                    continue
                return
            acknowledged.add(vote["query"])
            if len(acknowledged) > ENOUGH:
                enough.set()

    with voting_service(settings) as (killed, first), voting_service(settings) as (also_killed, second):
        visitors = [
            threading.Thread(target=vote_until_killed, args=(address, f"{address} {number}"))
            for address in (first, second)
            for number in range(3)
        ]
        for visitor in visitors:
            visitor.start()
        assert enough.wait(60)
        killed.send_signal(signal.SIGKILL)
        also_killed.send_signal(signal.SIGKILL)
        for visitor in visitors:
            visitor.join(60)
    file = log_file(settings.home, Origin.FEEDBACK)
    complete = file.read_bytes().rpartition(b"\n")[0]
    queries = [Record.model_validate_json(line).query for line in complete.split(b"\n")]
    assert len(acknowledged) > ENOUGH
    assert acknowledged <= set(queries)
    assert len(queries) == len(set(queries))
    append_records(settings.home, Origin.FEEDBACK, [Record(**VOTE, judge="a", judged_at="now")])
    assert len(logged(settings)) == len(queries) + 1  # a torn line is gone
