"""The ranking belongs to a release: it is checked, published, recovered, and moved together with the collection."""

from __future__ import annotations

import json
import shutil
from unittest.mock import patch

import pytest
from damage_in_place import flip
from release_fixtures import everywhere, ledgers
from release_world import (
    HashingEncoder,
    embeddings_of,
    encoder_of,
    lose_ledger,
    ranking_of,
    recorded,
    release_night,
    served,
    small,
    snapshot_of,
    texts,
    with_milvus,
)

from tasks.core.base.errors import Damaged, Mismatch
from tasks.core.base.files import digest_of, load
from tasks.core.base.ranking import DENSE, Mode, Ranking
from tasks.core.base.receipts import Postings, Release, Snapshot
from tasks.core.release.generation import Parts
from tasks.core.release.history import list_releases, serving
from tasks.core.release.milvus.collection import METRIC
from tasks.core.release.publisher import Identity
from tasks.core.release.publisher import ranking_of as ranking_in
from tasks.core.release.reindex import reindex
from tasks.core.release.rollback import rollback
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river n3", "copper n17", "violin harbour meadow"]


def answers(settings):
    with Searcher.open(settings, HashingEncoder) as searcher:
        return searcher.search(QUERIES, 20)


def ranking_over(settings, tag, weight=0.5):
    """Return a ranking over the lexical index of the passages of `tag`."""
    return ranking_of(settings.home, snapshot_of(settings.home, texts(tag=tag)), weight)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0])
def test_a_lexical_index_of_another_snapshot_is_not_published(settings, weight):
    first = release_night(settings, weight=0.3)
    other = ranking_over(settings, "other", weight)
    with pytest.raises(Mismatch, match="not over snapshot"):
        release_night(settings, ranking=other)
    shutil.rmtree(settings.home / Postings.shelf / first.ranking.postings)
    with pytest.raises(Mismatch, match=r"missing, .* Run the night again"):
        release_night(settings, ranking=first.ranking.model_copy(update={"weight": weight}))
    if weight < 1:
        with pytest.raises(Mismatch, match="names no lexical index"):
            release_night(settings, ranking=Ranking(weight=weight))
    assert served(settings) == first.release
    assert open_publisher(settings.home, settings.milvus).collections() == {first.collection}


@everywhere
def test_a_collection_with_a_lexical_index_of_another_snapshot_is_refused_and_rollback_helps(settings):
    first, other = release_night(settings, weight=0.3), ranking_over(settings, "other")
    before = answers(settings)
    with patch("tasks.core.release.publish.check_lexical"):
        second = release_night(settings, seed=2, ranking=other)
    with pytest.raises(Mismatch, match=r"made from snapshot .* `nightshift rollback`"):
        Searcher.open(settings, HashingEncoder)
    assert second.release == served(settings)
    rollback(settings)
    assert answers(settings) == before
    with pytest.raises(Mismatch, match="not over snapshot"):
        rollback(settings, second.release)
    assert served(settings) == first.release


def test_a_release_whose_lexical_index_is_missing_or_damaged_is_refused(settings):
    for harm in (shutil.rmtree, lambda folder: flip(folder / "documents.i32")):
        first, second = release_night(settings), release_night(settings, weight=0.5)
        harm(settings.home / Postings.shelf / second.ranking.postings)
        with pytest.raises(Damaged, match=r"lexical index damaged or missing.*nightshift releases repair"):
            Searcher.open(settings, HashingEncoder)
        rollback(settings, first.release)
        assert {answer.release for answer in answers(settings)} == {first.release}
        with pytest.raises(Mismatch, match="missing"):
            rollback(settings, second.release)
        assert served(settings) == first.release


def test_every_part_of_the_ranking_changes_the_digest_and_dense_releases_keep_theirs(settings):
    snapshot, encoder = snapshot_of(settings.home, texts()), encoder_of(settings.home)
    embeddings = embeddings_of(settings.home, encoder, snapshot)
    base = Ranking(weight=0.5, postings="abc")
    changes = {
        "weight": 0.55,
        "dense_scale": 2.0,
        "lexical_scale": 9.0,
        "postings": "abd",
        "language": "de",
        "stemmer": "krovetz",
        "k1": 1.2,
    }
    rankings = [DENSE, base, *(base.model_copy(update={name: value}) for name, value in changes.items())]
    rankings += [base.model_copy(update={"b": 0.75}), base.model_copy(update={"weight": 1.0})]
    parts = [Parts(encoder, embeddings, snapshot, settings.milvus, HashingEncoder, ranking) for ranking in rankings]
    assert len({part.digest for part in parts}) == len(rankings)
    earlier = (encoder.fingerprint, embeddings.digest, snapshot.digest, settings.milvus.index, METRIC)
    assert parts[0].digest == digest_of({"kind": "Release", "parts": earlier})


def without_ranking(identity):
    return {f"nightshift.{name}": str(value) for name, value in identity.model_dump(exclude={"ranking"}).items()}


def test_a_release_of_an_earlier_version_is_dense_and_its_collection_is_reused(settings):
    with patch.object(Identity, "properties", without_ranking):
        release = release_night(settings)
    manifest = settings.home / "releases" / release.release / "manifest.json"
    fields = json.loads(manifest.read_text())
    earlier = {name: value for name, value in fields.items() if name not in ("ranking", "dense")}
    assert len(earlier) == len(fields) - 2
    manifest.write_text(json.dumps(earlier))
    assert recorded(settings.home, release.release).ranking == DENSE
    identity = open_publisher(settings.home, settings.milvus).identity(release.collection)
    assert ranking_in(identity) == DENSE
    lose_ledger(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.ranking == DENSE
        assert searcher.search("lamp") == searcher.search("lamp", mode=Mode.DENSE)
    assert reindex(settings, "again", HashingEncoder).collection == release.collection


def test_a_ranking_of_a_later_version_is_refused_in_words(settings):
    release = release_night(settings)
    identity = open_publisher(settings.home, settings.milvus).identity(release.collection)
    with pytest.raises(Mismatch, match="its ranking was written by another version"):
        ranking_in(identity.model_copy(update={"ranking": '{"weight": 0.5, "reranker": "large"}'}))


@ledgers
def test_a_ranking_is_restored_from_the_properties_of_its_collection(settings):
    first, second = release_night(settings, weight=0.25), release_night(settings, weight=0.75)
    before = answers(settings)
    lose_ledger(settings)
    shutil.rmtree(settings.home / "releases")
    again, _ = serving(settings)
    assert (again.release, again.ranking, again.parents) == (second.release, second.ranking, second.parents)
    assert answers(settings) == before
    assert [release.ranking for release in list_releases(settings)] == [second.ranking]
    assert first.ranking != second.ranking


@everywhere
def test_rollback_and_reindex_keep_the_ranking(settings):
    rankings, all_answers = [], []
    for weight in (None, 0.3, 0.0, 0.3):
        rankings.append(release_night(settings, weight=weight).ranking)
        all_answers.append(answers(settings))
    assert rankings[3] == rankings[1]
    assert all_answers[3] == all_answers[1]  # the finished collection of the same parts serves again
    other = with_milvus(settings, index="HNSW", index_params={"M": 8})
    indexed = reindex(other, "a quicker index", HashingEncoder)
    assert indexed.ranking == recorded(settings.home, indexed.release).ranking == rankings[1]
    same = [[hit.passage_id for hit in answer.hits] for answer in answers(other)]
    assert same == [[hit.passage_id for hit in answer.hits] for answer in all_answers[1]]
    rollback(settings)
    assert answers(settings) == all_answers[1]
    rollback(settings)
    assert answers(settings) == all_answers[2]


def test_a_release_loads_its_lexical_index_from_the_recorded_snapshot(tmp_path):
    settings = small(tmp_path / "var")
    release = release_night(settings, weight=0.5)
    postings = load(settings.home, Postings, release.ranking.postings)
    assert (postings.snapshot, postings.rows) == (release.snapshot, release.rows)
    assert postings.parents == (load(settings.home, Snapshot, release.snapshot).digest,)
    assert Release.model_validate(release.model_dump()).ranking == release.ranking
