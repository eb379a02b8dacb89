from __future__ import annotations

import json

import numpy as np
import pytest
from release_world import (
    HashingEncoder,
    embeddings_of,
    encoder_of,
    recorded,
    release_night,
    snapshot_of,
    texts,
    vectors_of,
)

from tasks.core.errors import Mismatch, NightshiftError
from tasks.core.files import write_json
from tasks.core.release.publish import publish
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher
from tasks.core.settings import MilvusSettings


def publish_rows(home, rows):
    encoder, snapshot = encoder_of(home), snapshot_of(home, rows)
    figures = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": "", "reason": ""}
    embeddings = embeddings_of(home, encoder, snapshot)
    parts = {"encoder": encoder, "embeddings": embeddings, "snapshot": snapshot}
    return publish(home, MilvusSettings(), **parts, **figures, expected_epoch=0, loader=HashingEncoder)


def test_an_answer_is_that_of_exact_search(home):
    release = release_night(home)
    encoder, snapshot = encoder_of(home), snapshot_of(home, texts())
    query = "lamp river stone n17"
    scores = vectors_of(encoder, snapshot) @ HashingEncoder(encoder.path).encode_queries([query])[0]
    best = np.argsort(-scores)[:5]
    with Searcher.open(home, HashingEncoder) as searcher:
        answer = searcher.search(query, 5)
    assert (answer.release, answer.query) == (release.release, query)
    assert [hit.passage_id for hit in answer.hits] == [f"p{row:04d}" for row in best]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in answer.hits] == pytest.approx(scores[best], abs=1e-5)
    assert answer.hits[0].text == texts()[best[0]]["text"]
    assert answer.hits[0].title == f"entry {best[0]}"


def test_many_queries_get_the_answers_they_get_alone(home):
    release_night(home)
    asked = [f"{word} n{i}" for i, word in enumerate(["lamp", "river", "stone"] * 20)]
    with Searcher.open(home, HashingEncoder) as searcher:
        many = searcher.search_many(asked, 200)
        assert [[hit.passage_id for hit in one.hits[:3]] for one in many[:4]] == [
            [hit.passage_id for hit in searcher.search(query, 3).hits] for query in asked[:4]
        ]
        assert [one.query for one in many] == asked
        assert {len(one.hits) for one in many} == {200}
        assert len(searcher.search("lamp", 1000).hits) == 200
        assert searcher.search_many([]) == []


def test_bad_requests_are_refused_with_the_rule(home):
    release_night(home)
    with Searcher.open(home, HashingEncoder) as searcher:
        for k in (0, 1001):
            with pytest.raises(NightshiftError, match="1 to 1000"):
                searcher.search("lamp", k)
        with pytest.raises(NightshiftError, match="empty"):
            searcher.search(" \n")
    with pytest.raises(NightshiftError, match="closed"):
        searcher.search("lamp")


def test_without_a_release_it_says_what_to_run(home):
    with pytest.raises(NightshiftError, match="nightshift run"):
        Searcher.open(home, HashingEncoder)


def test_an_altered_encoder_is_refused_and_rollback_helps(home):
    first, second = release_night(home, seed=1), release_night(home, seed=2)
    write_json(home / "encoders" / second.encoder / "weights.json", [3, 24, True])
    with pytest.raises(Mismatch, match="collection holds vectors of"):
        Searcher.open(home, HashingEncoder)
    rollback(home)
    with Searcher.open(home, HashingEncoder) as searcher:
        assert searcher.search("lamp").release == first.release


def test_an_encoder_of_another_dimension_is_refused(home):
    release = release_night(home)

    class Wider(HashingEncoder):
        def __init__(self, folder):
            super().__init__(folder)
            self.dimension = 32

    with pytest.raises(Mismatch, match="dimension 32"):
        Searcher.open(home, Wider)
    assert recorded(home, release.release).dimension == 24


def test_a_collection_of_another_release_is_refused(home):
    first, second = release_night(home, seed=1), release_night(home, seed=1, tag="new")
    pointer = json.loads((home / "serving.json").read_text())
    write_json(home / "serving.json", {**pointer, "collection": first.collection})
    with pytest.raises(Mismatch, match=f"release {second.release}: its collection says {first.release}"):
        Searcher.open(home, HashingEncoder)


def test_a_text_longer_than_milvus_holds_comes_back_entire(home):
    long = "é" * 40_000 + " lamp"
    publish_rows(home, [*texts(100), {"passage_id": "p9999", "title": "", "text": long}])
    with Searcher.open(home, HashingEncoder) as searcher:
        hit = searcher.search(long, 1).hits[0]
    assert (hit.passage_id, hit.text) == ("p9999", long)


def test_ids_of_any_kind_come_back_as_they_are(home):
    odd = ['a"b', "a'b", "back\\slash", "new\nline", "é漢", "{x} %s", "both\"'\\", " "]
    publish_rows(home, [{**row, "passage_id": name} for row, name in zip(texts(8), odd, strict=True)])
    with Searcher.open(home, HashingEncoder) as searcher:
        assert {hit.passage_id for hit in searcher.search("lamp").hits} == set(odd)


def test_refresh_changes_only_when_the_pointer_moved(home):
    first = release_night(home, seed=1)
    with Searcher.open(home, HashingEncoder) as searcher:
        assert not searcher.refresh()
        second = release_night(home, seed=2)
        assert searcher.search("lamp").release == first.release
        assert searcher.refresh()
        assert searcher.search("lamp").release == second.release
        assert len([path for path in (home / "readers").iterdir() if path.is_dir()]) == 1
