"""Damage while a searcher or service runs: the damaged release answers no query; another release may answer."""

from __future__ import annotations

import threading

import pytest
from damage_in_place import flip
from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small

from tasks.core.base.errors import Damaged, NightshiftError
from tasks.core.release.repair import repair
from tasks.core.search.http import make_app
from tasks.core.search.named_releases import open_release
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service

QUERIES = ["lamp river n3", "violin n8", "copper meadow"]
ASK = {"queries": QUERIES, "k": 5}


def two_releases(home, **release):
    settings = small(home, {"check_minutes": 0, **release})
    return settings, *(release_night(settings, seed=seed) for seed in (1, 2))


def damage(settings, release):
    (file,) = (settings.home / "milvus" / f"{release.collection}.db").rglob("*.idx")
    flip(file)


def test_a_running_searcher_refuses_once_its_files_are_damaged_and_answers_when_they_are_repaired(tmp_path, caplog):
    settings, _, second = two_releases(tmp_path / "var")
    with Searcher.open(settings, HashingEncoder) as searcher:
        before = searcher.search(QUERIES, 5)
        searcher.check()
        assert searcher.search(QUERIES, 5) == before
        damage(settings, second)
        with pytest.raises(Damaged, match="nightshift releases repair"):
            searcher.check()
        assert f"release {second.release} no longer answers" in caplog.text
        for _ in range(3):
            with pytest.raises(Damaged, match=r"\.idx: its content has changed"):
                searcher.search(QUERIES, 5)
        assert not searcher.refresh()
        again, _ = repair(settings, HashingEncoder)
        assert searcher.refresh()
        after = searcher.search(QUERIES, 5)
    assert [answer.release for answer in after] == [again.release] * 3
    assert [answer.hits for answer in after] == [answer.hits for answer in before]


class Held(HashingEncoder):
    """Wait for `free` before encoding the query `hold`."""

    entered, free = threading.Event(), threading.Event()

    def encode_queries(self, texts):
        if "hold" in texts:
            self.entered.set()
            assert self.free.wait(30)
        return self.encode_passages(texts)


def test_a_search_in_progress_is_refused_when_damage_is_detected(tmp_path):
    settings, _, second = two_releases(tmp_path / "var")
    outcomes = []
    with Searcher.open(settings, Held) as searcher:

        def search():
            try:
                outcomes.append(searcher.search("hold"))
            except NightshiftError as error:
                outcomes.append(error)

        thread = threading.Thread(target=search)
        thread.start()
        assert Held.entered.wait(30)
        damage(settings, second)
        with pytest.raises(Damaged):
            searcher.check()
        Held.free.set()
        thread.join()
    assert [type(error) for error in outcomes] == [Damaged]


def test_files_restored_in_place_answer_again(tmp_path):
    settings, _, second = two_releases(tmp_path / "var")
    with Searcher.open(settings, HashingEncoder) as searcher:
        before = searcher.search(QUERIES)
        damage(settings, second)
        with pytest.raises(Damaged):
            searcher.check()
        damage(settings, second)  # flips the same bit back
        searcher.check()
        assert searcher.search(QUERIES) == before


def test_the_previous_release_answers_if_the_settings_allow_it(tmp_path, caplog):
    settings, first, second = two_releases(tmp_path / "var", serve_previous_when_damaged=True)
    with Searcher.open(settings, HashingEncoder) as searcher:
        damage(settings, second)
        searcher.check()
        assert {answer.release for answer in searcher.search(QUERIES)} == {first.release}
        assert searcher.stands_in_for == second.release
        assert f"release {first.release} answers in place of {second.release}" in caplog.text
        assert not searcher.refresh()  # the pointer has not moved: nothing is opened again
        with Searcher.open(settings, HashingEncoder) as other:
            assert other.search("lamp")[0].release == first.release
        with pytest.raises(Damaged):  # a named release is never replaced by another
            open_release(settings, second.release, HashingEncoder)
        again, _ = repair(settings, HashingEncoder)
        assert searcher.refresh()
        assert (searcher.release, searcher.stands_in_for) == (again.release, "")
        damage(settings, again)
        damage(settings, first)
        with pytest.raises(Damaged, match=again.collection):
            searcher.check()


class Choosy(HashingEncoder):
    """Refuse encoders whose folder contains a marker file."""

    def __init__(self, folder):
        if (folder / "damaged").exists():
            raise Damaged(f"{folder / 'config.json'}: damaged; restore it from a backup, or `nightshift rollback`")
        super().__init__(folder)


def test_a_damaged_encoder_is_reported_or_the_previous_release_answers(tmp_path):
    settings, first, second = two_releases(tmp_path / "var")
    (settings.home / "encoders" / second.encoder / "damaged").touch()
    with pytest.raises(Damaged, match=r"config\.json: damaged"):
        Searcher.open(settings, Choosy)
    allowed = small(settings.home, {"serve_previous_when_damaged": True})
    with Searcher.open(allowed, Choosy) as searcher:
        assert searcher.search("lamp")[0].release == first.release


def client_of(settings, loader=HashingEncoder):
    service = Service.open(settings, loader)
    return service, TestClient(make_app(service), base_url="http://127.0.0.1", raise_server_exceptions=False)


def test_the_service_reports_damage_and_answers_again_after_a_repair(tmp_path):
    settings, _, second = two_releases(tmp_path / "var")
    service, http = client_of(settings)
    with http as client:
        before = client.post("/search", json=ASK).json()["answers"]
        assert client.get("/healthz").json() == {"status": "ok", "release": second.release, "reason": ""}
        damage(settings, second)
        with pytest.raises(Damaged):
            service._searcher.check()
        refused = client.post("/search", json=ASK)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert "nightshift releases repair" in refused.json()["error"]
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "failing")
        assert second.release in health.json()["reason"]
        assert str(tmp_path) not in health.text
        repair(settings, HashingEncoder)
        service._searcher.refresh()
        assert client.get("/healthz").json()["status"] == "ok"
        after = client.post("/search", json=ASK).json()["answers"]
        assert [answer["hits"] for answer in after] == [answer["hits"] for answer in before]


def test_the_service_reports_that_the_previous_release_answers(tmp_path):
    settings, first, second = two_releases(tmp_path / "var", serve_previous_when_damaged=True)
    service, http = client_of(settings)
    with http as client:
        damage(settings, second)
        service._searcher.check()
        assert client.post("/search", json=ASK).json()["release"] == first.release
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["reason"] == f"release {second.release} is damaged; the previous release answers"


def test_the_service_survives_a_damaged_ledger_and_pointer(tmp_path):
    settings, first, second = two_releases(tmp_path / "var")
    _, http = client_of(settings)
    with http as client:
        (settings.home / "ledger.sqlite").write_bytes(b"no ledger" * 1000)
        (settings.home / "serving.json").write_bytes(b"\xff")
        assert client.post("/search", json=ASK).json()["release"] == second.release
        assert client.post("/search", json={**ASK, "release": first.release}).json()["release"] == first.release
        listed = client.get("/release").json()
        assert [release["release"] for release in listed["releases"]] == [second.release, first.release]
