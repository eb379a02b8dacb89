"""The mode of a request and of a release, over HTTP."""

from __future__ import annotations

import json

import pytest
from fastapi.testclient import TestClient
from release_world import HashingEncoder, release_night, small

from tasks.core.base.ranking import Mode
from tasks.core.base.sections.service import ServiceSettings
from tasks.core.search.http import make_app
from tasks.core.search.searcher import Searcher
from tasks.core.search.service import Service

QUERIES = ["lamp n3", "copper violin", "n17 meadow stone"]
WEIGHTS = {"old": None, "lexical": 0.0, "dense": 1.0, "hybrid": 0.5}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A home with a release of each mode, and one without a lexical index; the hybrid release serves."""
    settings = small(tmp_path_factory.mktemp("modes") / "var")
    return settings, {name: release_night(settings, weight=weight).release for name, weight in WEIGHTS.items()}


@pytest.fixture(scope="module")
def client(world):
    settings, releases = world
    shadowing = settings.model_copy(
        update={"service": ServiceSettings(shadow_release=releases["dense"], shadow_share=1.0)}
    )
    app = make_app(Service.open(shadowing, HashingEncoder))
    with TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def answers(client, **request):
    response = client.post("/search", json={"queries": QUERIES, "k": 7, **request})
    assert response.status_code == 200, response.text
    return response.json()["answers"]


def test_a_request_chooses_the_mode_and_its_earlier_name_still_works(world, client):
    settings, _ = world
    with Searcher.open(settings, HashingEncoder) as searcher:
        wanted = {
            mode: [answer.model_dump(mode="json") for answer in searcher.search(QUERIES, 7, mode=mode)] for mode in Mode
        }
    assert {mode: answers(client, mode=mode) for mode in Mode} == wanted
    assert answers(client) == answers(client, mode=None) == answers(client, fuse=True) == wanted[Mode.HYBRID]
    assert answers(client, fuse=False) == wanted[Mode.HYBRID]  # of the release
    assert answers(client, fuse=True, mode="dense") == wanted[Mode.DENSE]
    assert len({json.dumps(ranked) for ranked in wanted.values()}) == 3


def test_a_named_release_answers_in_its_own_mode(world, client):
    _, releases = world
    for name in ("lexical", "dense"):
        assert answers(client, release=releases[name]) == answers(client, release=releases[name], mode=name)


def test_a_release_without_a_lexical_index_refuses_hybrid_search_with_the_next_step(world, client):
    _, releases = world
    for wish in ({"mode": "hybrid"}, {"mode": "lexical"}, {"fuse": True}):
        refused = client.post("/search", json={"query": "lamp", "release": releases["old"], **wish})
        assert refused.status_code == 409
        assert "only dense search is possible. The next release has one" in refused.json()["error"]
        assert refused.json()["next"]
    assert len(answers(client, release=releases["old"])) == 3


def test_the_list_of_releases_names_their_modes(world, client):
    _, releases = world
    listed = {release["release"]: release["mode"] for release in client.get("/release").json()["releases"]}
    modes = {"old": "dense", "lexical": "lexical", "dense": "dense", "hybrid": "hybrid"}
    assert listed == {releases[name]: mode for name, mode in modes.items()}


def test_an_unknown_mode_is_refused_with_the_known_ones(client):
    refused = client.post("/search", json={"query": "lamp", "mode": "sparse"})
    assert refused.status_code == 422
    assert all(mode in refused.json()["error"] for mode in Mode)


def test_the_schema_marks_the_earlier_name_as_deprecated_and_reading_it_does_not_warn(client, recwarn):
    fields = client.get("/openapi.json").json()["components"]["schemas"]["SearchRequest"]["properties"]
    assert [name for name, field in fields.items() if field.get("deprecated")] == ["fuse"]
    answers(client, fuse=True)
    assert not [warning for warning in recwarn if warning.category is DeprecationWarning]


def test_the_page_offers_every_mode_and_names_that_of_the_release(client):
    page, script = client.get("/").text, client.get("/search.js").text
    for mode in Mode:
        assert f'<option value="{mode}">' in page
        assert f"{mode}: " in script
    assert "MODES[details.mode]" in script


def test_the_challenger_is_searched_in_the_mode_of_the_request(tmp_path):
    settings = small(tmp_path / "var")
    challenger, serving = release_night(settings, seed=1, weight=0.5), release_night(settings, seed=2, weight=0.5)
    shadowing = settings.model_copy(
        update={"service": ServiceSettings(shadow_release=challenger.release, shadow_share=1.0)}
    )
    with TestClient(make_app(Service.open(shadowing, HashingEncoder)), base_url="http://127.0.0.1") as client:
        assert client.post("/search", json={"query": "lamp n3", "mode": "lexical"}).json()["release"] == serving.release
    (file,) = (settings.home / "shadow").iterdir()
    (line,) = map(json.loads, file.read_text().splitlines())
    assert line["overlap"] == 1.0  # BM25 does not depend on the encoder
