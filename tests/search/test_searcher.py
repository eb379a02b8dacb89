from __future__ import annotations

import numpy as np
import pytest
from release_fixtures import everywhere
from release_world import (
    HashingEncoder,
    embeddings_of,
    encoder_of,
    recorded,
    release_night,
    small,
    snapshot_of,
    texts,
    vectors_of,
)

from tasks.core.base.errors import BadUsage, Mismatch, NightshiftError
from tasks.core.base.files import write_json
from tasks.core.release.milvus.embedded import EmbeddedMilvus
from tasks.core.release.publish import publish
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher


def publish_rows(settings, rows):
    encoder, snapshot = encoder_of(settings.home), snapshot_of(settings.home, rows)
    figures = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": "", "reason": ""}
    embeddings = embeddings_of(settings.home, encoder, snapshot)
    parts = {"encoder": encoder, "embeddings": embeddings, "snapshot": snapshot}
    return publish(settings, **parts, **figures, expected_epoch=0, loader=HashingEncoder)


@everywhere
def test_answers_equal_exact_search(settings):
    release = release_night(settings)
    encoder, snapshot = encoder_of(settings.home), snapshot_of(settings.home, texts())
    query = "lamp river stone n17"
    scores = vectors_of(encoder, snapshot) @ HashingEncoder(encoder.path).encode_queries([query])[0]
    best = np.argsort(-scores)[:5]
    with Searcher.open(settings, HashingEncoder) as searcher:
        (answer,) = searcher.search(query, 5)
    assert (answer.release, answer.query) == (release.release, query)
    assert [hit.passage_id for hit in answer.hits] == [f"p{row:04d}" for row in best]
    assert [hit.rank for hit in answer.hits] == [1, 2, 3, 4, 5]
    assert [hit.score for hit in answer.hits] == pytest.approx(scores[best], abs=1e-5)
    assert answer.hits[0].text == texts()[best[0]]["text"]
    assert answer.hits[0].title == f"entry {best[0]}"


@everywhere
def test_batched_queries_get_the_same_answers_as_single_queries(settings):
    release_night(settings)
    queries = [f"{word} n{i}" for i, word in enumerate(["lamp", "river", "stone"] * 20)]
    with Searcher.open(settings, HashingEncoder) as searcher:
        many = searcher.search(queries, 200)
        assert [[hit.passage_id for hit in answer.hits[:3]] for answer in many[:4]] == [
            [hit.passage_id for hit in searcher.search(query, 3)[0].hits] for query in queries[:4]
        ]
        assert [answer.query for answer in many] == queries
        assert {len(answer.hits) for answer in many} == {200}
        assert len(searcher.search("lamp", 1000)[0].hits) == 200
        assert searcher.search([]) == []


def test_bad_requests_are_refused_with_the_rule(settings):
    release_night(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        for k in (0, 1001):
            with pytest.raises(NightshiftError, match="1 to 1000"):
                searcher.search("lamp", k)
        with pytest.raises(NightshiftError, match="empty"):
            searcher.search(" \n")
    with pytest.raises(NightshiftError, match="closed"):
        searcher.search("lamp")


def test_the_mode_is_given_by_name_and_an_unknown_one_is_refused(settings):
    release_night(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp", mode="dense") == searcher.search("lamp")
        with pytest.raises(BadUsage, match=r"mode 'both': unknown\. Use one of dense, lexical, hybrid"):
            searcher.search("lamp", mode="both")


def test_without_a_release_the_error_names_the_command_to_run(settings):
    with pytest.raises(NightshiftError, match="nightshift run"):
        Searcher.open(settings, HashingEncoder)


@everywhere
def test_an_altered_encoder_is_refused_and_rollback_helps(settings):
    first, second = release_night(settings, seed=1), release_night(settings, seed=2)
    write_json(settings.home / "encoders" / second.encoder / "weights.json", [3, 24, True])
    with pytest.raises(Mismatch, match="collection holds vectors of"):
        Searcher.open(settings, HashingEncoder)
    rollback(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp")[0].release == first.release


def test_an_encoder_of_another_dimension_is_refused(settings):
    release = release_night(settings)

    class Wider(HashingEncoder):
        def __init__(self, folder):
            super().__init__(folder)
            self.dimension = 32

    with pytest.raises(Mismatch, match="dimension 32"):
        Searcher.open(settings, Wider)
    assert recorded(settings.home, release.release).dimension == 24


def test_a_pointer_to_the_collection_of_another_release_is_corrected_or_refused(settings):
    first, second = release_night(settings, seed=1), release_night(settings, seed=1, tag="new")
    milvus = EmbeddedMilvus(settings.home, settings.milvus)
    wrong = milvus.serving().model_copy(update={"collection": first.collection})
    milvus.move_pointer(wrong)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp")[0].release == second.release
    assert milvus.serving().collection == second.collection

    milvus.serving = lambda: wrong
    with pytest.raises(Mismatch, match=f"release {second.release}: its collection belongs to {first.release}"):
        Searcher.open(settings, HashingEncoder, milvus)


@everywhere
def test_a_text_beyond_the_limit_of_milvus_is_returned_in_full(settings):
    long = "é" * 40_000 + " lamp"
    publish_rows(settings, [*texts(100), {"passage_id": "p9999", "title": "", "text": long}])
    with Searcher.open(settings, HashingEncoder) as searcher:
        hit = searcher.search(long, 1)[0].hits[0]
    assert (hit.passage_id, hit.text) == ("p9999", long)


@everywhere
def test_ids_of_any_form_are_returned_unchanged(settings):
    odd = ['a"b', "a'b", "back\\slash", "new\nline", "é漢", "{x} %s", "both\"'\\", " "]
    publish_rows(settings, [{**row, "passage_id": name} for row, name in zip(texts(8), odd, strict=True)])
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert {hit.passage_id for hit in searcher.search("lamp")[0].hits} == set(odd)


def test_refresh_reloads_only_after_the_pointer_moved(settings):
    first = release_night(settings, seed=1)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert not searcher.refresh()
        second = release_night(settings, seed=2)
        assert searcher.search("lamp")[0].release == first.release
        assert searcher.refresh()
        assert searcher.search("lamp")[0].release == second.release
        assert len([path for path in (settings.home / "readers").iterdir() if path.is_dir()]) == 1


def test_a_query_that_is_not_text_is_refused_with_the_reason(settings_of_one_release):
    with Searcher.open(settings_of_one_release, HashingEncoder) as searcher:
        refused = {"\ud83d": r"\\\\ud83d.*half of a character", "a\0b": "NUL", 7: "type int", " ": "empty"}
        for query, message in refused.items():
            with pytest.raises(BadUsage, match=message):
                searcher.search([query])
        with pytest.raises(BadUsage, match=r"half of a character|valid string"):
            searcher.search("fine", where={"title": {"prefix": "\ud83d"}})


@pytest.fixture
def settings_of_one_release(tmp_path):
    settings = small(tmp_path / "var")
    release_night(settings)
    return settings
