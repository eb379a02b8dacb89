"""Damage to the lexical index while a release is searched: what ranks with it is refused until it is rebuilt."""

from __future__ import annotations

import os

import pytest
from damage_in_place import HARMS, flip
from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small

from tasks.core.base.errors import Damaged
from tasks.core.base.ranking import Mode
from tasks.core.base.receipts import Postings
from tasks.core.release.repair import repair
from tasks.core.retrieval.postings_format import DOCUMENTS, FREQUENCIES, NORMS, TERMS
from tasks.core.search.http import make_app
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service

QUERIES = ["lamp river n3", "violin n8", "copper meadow"]
ASK = {"queries": QUERIES, "k": 5}


def client_of(settings):
    service = Service.open(settings, HashingEncoder)
    return service, TestClient(make_app(service), base_url="http://127.0.0.1", raise_server_exceptions=False)


def lexical_files(settings, release):
    folder = settings.home / Postings.shelf / release.ranking.postings
    return [folder / name for name in (DOCUMENTS, FREQUENCIES, NORMS, TERMS)]


def hybrid(client):
    return client.post("/search", json={**ASK, "mode": "hybrid"})


@pytest.mark.parametrize("harm", HARMS)
def test_damage_to_any_file_of_a_lexical_index_is_noticed_when_it_is_opened_and_by_the_check(tmp_path, harm):
    settings = small(tmp_path / "var", {"check_minutes": 0})
    release = release_night(settings, weight=0.5)
    for file in lexical_files(settings, release):
        with Searcher.open(settings, HashingEncoder) as searcher:
            before = searcher.search(QUERIES, 5)
            searcher.check()
            assert searcher.search(QUERIES, 5) == before
            times = file.stat()
            harm(file)
            if file.exists():  # a failing disk does not change the time of modification
                os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
            with pytest.raises(Damaged, match=r"lexical index damaged or missing.*nightshift releases repair"):
                searcher.check()
            with pytest.raises(Damaged, match="lexical index"):
                searcher.search(QUERIES, 5)
            with pytest.raises(Damaged, match="lexical index"):
                Searcher.open(settings, HashingEncoder)
            assert repair(settings, HashingEncoder) == (release.model_copy(update={"reused": True}), 1)
            searcher.check()
            assert searcher.search(QUERIES, 5) == before


def test_the_previous_release_answers_while_the_lexical_index_of_a_hybrid_release_is_damaged(tmp_path):
    settings = small(tmp_path / "var", {"check_minutes": 0, "serve_previous_when_damaged": True})
    first, second = release_night(settings, seed=1), release_night(settings, seed=2, weight=0.5)
    service, http = client_of(settings)
    with http as client:
        before = client.post("/search", json=ASK).json()["answers"]
        flip(lexical_files(settings, second)[0])
        service._searcher.check()
        assert client.post("/search", json=ASK).json()["release"] == first.release
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["reason"] == f"release {second.release} is damaged; the previous release answers"
        repair(settings, HashingEncoder)
        service._searcher.check()
        assert client.post("/search", json=ASK).json()["answers"] == before
        assert client.get("/healthz").json()["status"] == "ok"


def test_a_service_refuses_while_the_lexical_index_of_its_hybrid_release_is_damaged(tmp_path):
    settings = small(tmp_path / "var", {"check_minutes": 0})
    release = release_night(settings, weight=0.5)
    service, http = client_of(settings)
    with http as client:
        before = client.post("/search", json=ASK).json()["answers"]
        flip(lexical_files(settings, release)[0])
        with pytest.raises(Damaged):
            service._searcher.check()
        refused = client.post("/search", json=ASK)
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "10")
        assert "nightshift releases repair" in refused.json()["error"]
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (503, "failing")
        repair(settings, HashingEncoder)
        service._searcher.check()
        assert client.post("/search", json=ASK).json()["answers"] == before


def test_a_dense_release_answers_dense_queries_while_its_lexical_index_is_damaged(tmp_path):
    settings = small(tmp_path / "var", {"check_minutes": 0})
    release = release_night(settings, weight=1.0)
    service, http = client_of(settings)
    with http as client:
        whole = hybrid(client).json()["answers"]
        flip(lexical_files(settings, release)[0])
        service._searcher.check()
        refused = hybrid(client)
        assert refused.status_code == 503
        assert "lexical index damaged or missing" in refused.json()["error"]
        assert client.post("/search", json=ASK).status_code == 200
        health = client.get("/healthz")
        assert (health.status_code, health.json()["status"]) == (200, "degraded")
        assert health.json()["reason"] == (
            f"the lexical index of release {release.release} is damaged; only dense queries are answered"
        )
        with Searcher.open(settings, HashingEncoder) as other:
            assert len(other.search("lamp")[0].hits) == 10
            with pytest.raises(Damaged, match="damaged"):
                other.search("lamp", mode=Mode.HYBRID)
        repair(settings, HashingEncoder)
        service._searcher.check()
        assert hybrid(client).json()["answers"] == whole
        assert client.get("/healthz").json()["status"] == "ok"


@pytest.mark.parametrize("weight", [0.5, 1.0])
def test_an_index_that_another_process_rebuilt_before_the_check_is_opened_again(tmp_path, weight):
    settings = small(tmp_path / "var", {"check_minutes": 0})
    release = release_night(settings, weight=weight)
    documents = lexical_files(settings, release)[0]
    with Searcher.open(settings, HashingEncoder) as searcher:
        before = searcher.search(QUERIES, 5, mode=Mode.HYBRID)
        documents.write_bytes(bytes(documents.stat().st_size))  # in place: the searcher maps this file
        assert searcher.search(QUERIES, 5, mode=Mode.HYBRID) != before
        repair(settings, HashingEncoder)
        searcher.check()
        assert searcher.search(QUERIES, 5, mode=Mode.HYBRID) == before
