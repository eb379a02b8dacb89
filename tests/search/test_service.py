from __future__ import annotations

import asyncio
import json
import socket
import threading

import pytest
from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.release.rollback import rollback
from tasks.core.search.access import BODY_BYTES
from tasks.core.search.http import _bound, make_app, serve
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service, check_address

LOCAL = "http://127.0.0.1"


def serving(settings, loader=HashingEncoder, **service):
    """Return a test client of the service for this home, with changed `[service]` settings."""
    settings = settings.model_copy(update={"service": ServiceSettings(**service)})
    return TestClient(make_app(Service.open(settings, loader)), base_url=LOCAL, raise_server_exceptions=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Build a home with two releases of different encoders; the second serves."""
    settings = small(tmp_path_factory.mktemp("service") / "var")
    return settings, [release_night(settings, seed=seed).release for seed in (1, 2)]


@pytest.fixture(scope="module")
def client(world):
    with serving(world[0]) as client:
        yield client


def refused(response, status):
    assert response.status_code == status
    body = response.json()
    assert sorted(body) == ["error", "next"]
    assert all(body.values())
    return body["error"]


def test_an_answer_over_http_equals_the_answer_of_the_searcher(world, client):
    settings, (_, second) = world
    rules = {"title": {"prefix": "entry 1"}}
    with Searcher.open(settings, HashingEncoder) as searcher:
        single, several = searcher.search("lamp n3", 3), searcher.search(["lamp", "river"], 4, where=rules)
    body = client.post("/search", json={"query": "lamp n3", "k": 3}).json()
    assert body["answers"] == [answer.model_dump(mode="json") for answer in single]
    assert body["release"] == second
    body = client.post("/search", json={"queries": ["lamp", "river"], "k": 4, "filters": rules}).json()
    assert body["answers"] == [answer.model_dump(mode="json") for answer in several]


def test_a_named_release_answers_over_http(world, client):
    _, (first, second) = world
    for name in (first, second, first):
        body = client.post("/search", json={"query": "lamp", "release": name}).json()
        assert {body["release"], *(answer["release"] for answer in body["answers"])} == {name}
    serving_release = client.get("/release").json()
    assert serving_release["serving"] == second
    assert "Available" in refused(client.post("/search", json={"query": "lamp", "release": "r9"}), 404)
    assert [release["release"] for release in serving_release["releases"]] == [second, first]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "either query or queries"),
        ({"query": "a", "queries": ["b"]}, "either query or queries"),
        ({"query": " \n"}, "empty"),
        ({"query": "a" * 4001}, "4000"),
        ({"queries": ["a"] * 65}, "64"),
        ({"queries": []}, "at least 1"),
        ({"queries": ["a"] * 64, "k": 200}, "8192"),
        ({"query": "a", "k": 0}, "body.k"),
        ({"query": "a", "k": 1001}, "1000"),
        ({"query": "a", "colour": "red"}, "colour"),
        ({"query": "a", "filters": {"title": {"like": "%"}}}, "like"),
        ({"query": "a\0b"}, "NUL"),
        ([], "body"),
    ],
)
def test_a_bad_request_is_refused_with_the_field_and_the_rule(client, body, message):
    assert message in refused(client.post("/search", json=body), 422)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 100_000, b'{"query": "\\ud800"}', b'{"\\udfff": 1}', b"\xff", b'{"k": NaN}', b"1e999"]
)
def test_malformed_requests_are_refused(client, body):
    response = client.post("/search", content=body, headers={"content-type": "application/json"})
    assert response.status_code in (400, 422)
    refused(response, response.status_code)


def test_a_large_body_is_refused_before_it_is_read_with_or_without_content_length(client):
    refused(client.post("/search", content=b" " * (BODY_BYTES + 1)), 413)
    refused(client.post("/search", content=(b" " * 65536 for _ in range(17))), 413)


def test_unknown_paths_and_methods_are_refused_as_json(client):
    refused(client.get("/nothing"), 404)
    refused(client.get("/search"), 405)
    answer = client.post("/search", content=b'{"query": "lamp"}')  # without the header for JSON
    assert answer.json()["next"].startswith("send JSON with the header content-type: application/json"), answer.json()


def test_without_a_token_only_local_requests_with_local_host_names_are_answered(client):
    for host in ("127.0.0.1:8080", "localhost", "[::1]:8080"):
        assert client.get("/healthz", headers={"host": host}).status_code == 200
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", ""):
        assert "only to this machine" in refused(client.get("/healthz", headers={"host": host}), 403)


def test_a_configured_token_is_required(world):
    with serving(world[0], token="hidden-word") as client:
        anywhere = {"host": "search.example"}
        for headers in (
            {},
            {"authorization": "Bearer"},
            {"authorization": "Bearer hidden-wor"},
            {"authorization": "é"},
        ):
            response = client.post("/search", json={"query": "a"}, headers={**anywhere, **encoded(headers)})
            assert "token" in refused(response, 401)
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/healthz", headers=anywhere).status_code == 200
        assert client.get("/", headers=anywhere).status_code == 200
        right = {**anywhere, "authorization": "Bearer hidden-word"}
        assert client.post("/search", json={"query": "a"}, headers=right).status_code == 200


def encoded(headers):
    return {name: value.encode() for name, value in headers.items()}


def test_a_public_address_requires_a_token():
    for host in ("127.0.0.1", "::1", "localhost", "127.9.9.9"):
        check_address(host, ServiceSettings())
    for host in ("0.0.0.0", "::", "192.168.1.5", "search.example", ""):
        with pytest.raises(NightshiftError, match="NIGHTSHIFT_SERVICE__TOKEN"):
            check_address(host, ServiceSettings())
        check_address(host, ServiceSettings(token="hidden-word"))


def test_a_port_in_use_is_reported_before_the_release_is_opened(world):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        with pytest.raises(NightshiftError, match="--port"):
            serve(world[0], "127.0.0.1", listener.getsockname()[1], HashingEncoder)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_an_answer_is_sent_without_a_delayed_acknowledgement(host):
    async def nodelay():
        with _bound(host, 0) as listening:
            served = asyncio.get_running_loop().create_future()
            server = await asyncio.start_server(lambda _, writer: served.set_result(writer), sock=listening)
            _, ours = await asyncio.open_connection(*listening.getsockname()[:2])
            theirs = (await served).get_extra_info("socket")
            no_delay = theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            ours.close()
            server.close()
            return no_delay

    assert asyncio.run(nodelay())


class Held(HashingEncoder):
    """Wait for `free` before encoding the query `hold`."""

    entered, free = threading.Semaphore(0), threading.Event()

    def encode_queries(self, texts):
        if "hold" in texts:
            self.entered.release()
            assert self.free.wait(30)
        return self.encode_passages(texts)


def test_a_request_gets_503_when_all_workers_are_busy_and_no_search_is_lost(world):
    Held.free.clear()
    with serving(world[0], Held, concurrency=1) as client:
        statuses = []

        def send():
            statuses.append(client.post("/search", json={"query": "hold"}).status_code)

        threads = [threading.Thread(target=send) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert Held.entered.acquire(timeout=30)
        while len(statuses) < 3:  # one search runs, four wait, and three are refused
            pass
        response = client.post("/search", json={"query": "lamp"})
        assert "try again" in refused(response, 503)
        assert response.headers["retry-after"] == "1"
        assert client.get("/healthz").status_code == 200
        Held.free.set()
        for thread in threads:
            thread.join()
        assert sorted(statuses) == [200] * 5 + [503] * 3
        assert client.post("/search", json={"query": "lamp"}).status_code == 200


def test_a_slow_search_gets_a_timeout_answer_and_occupies_its_worker_until_it_ends(world):
    Held.free.clear()
    with serving(world[0], Held, concurrency=1, seconds=0.2) as client:
        statuses = [client.post("/search", json={"query": "hold"}).status_code for _ in range(3)]
        assert statuses == [504] * 3
        Held.free.set()


def test_the_service_follows_the_pointer_and_no_answer_mixes_releases(tmp_path):
    settings = small(tmp_path / "var", notice_seconds=0.02)
    names = [release_night(settings, seed=seed).release for seed in (1, 2)]
    query = {"queries": ["lamp river n3", "violin n8"], "k": 5}
    with serving(settings) as client:
        right = {name: client.post("/search", json={**query, "release": name}).json()["answers"] for name in names}
        seen, wrong, done = set(), [], threading.Event()

        def keep_searching():
            while not done.is_set():
                response = client.post("/search", json=query)
                if response.status_code != 200 or response.json()["answers"] != right[response.json()["release"]]:
                    wrong.append(response.text)
                else:
                    seen.add(response.json()["release"])

        threads = [threading.Thread(target=keep_searching) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(6):
            rollback(settings, names[number % 2])
            while client.get("/healthz").json()["release"] != names[number % 2]:
                pass
        done.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert seen == set(names)


def test_a_share_of_live_queries_is_also_sent_to_the_challenger(world):
    settings, (first, second) = world
    with serving(settings, shadow_release=first, shadow_share=1.0) as client:
        assert client.post("/search", json={"query": "lamp n3", "k": 4}).json()["release"] == second
        client.post("/search", json={"query": "by its name", "release": second})
        client.post("/search", json={"query": "of another", "release": first})
    lines = [
        json.loads(line) for file in (settings.home / "shadow").iterdir() for line in file.read_text().splitlines()
    ]
    assert [(line["query"], line["serving"], line["shadow"], line["k"]) for line in lines][:1] == [
        ("lamp n3", second, first, 4)
    ]
    with pytest.raises(NightshiftError, match="unknown"):
        serving(settings, shadow_release="r9")


def test_the_page_loads_nothing_external_and_its_policy_forbids_it(client):
    page, css, script = (client.get(path) for path in ("/", "/search.css", "/search.js"))
    assert page.headers["content-type"].startswith("text/html")
    for response in (page, css, script):
        assert "http://" not in response.text
        assert "https://" not in response.text
        policy = response.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
    assert "innerHTML" not in script.text
    assert "<script>" not in page.text
    assert "style=" not in page.text
