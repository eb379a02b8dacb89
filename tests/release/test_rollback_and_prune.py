from __future__ import annotations

import shutil

import pytest
from release_world import HashingEncoder, release_night, served

from tasks.core.errors import NightshiftError, StaleNight
from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.history import list_releases, serving
from tasks.core.release.ledger import held, open_ledger
from tasks.core.release.prune import prune
from tasks.core.release.rollback import rollback
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river n3", "violin harbour", "entry 40"]


def answers(home):
    with Searcher.open(home, HashingEncoder) as searcher:
        return searcher.search_many(QUERIES, 20)


def test_rollback_brings_the_old_answers_back(home):
    first = release_night(home, seed=1)
    before = answers(home)
    release_night(home, seed=2)
    assert answers(home) != before
    assert rollback(home).release == first.release
    assert answers(home) == before


def test_rollbacks_walk_back_one_release_at_a_time(home):
    names = [release_night(home, seed=seed).release for seed in (1, 2, 3)]
    assert [rollback(home).release, rollback(home).release] == [names[1], names[0]]
    with pytest.raises(NightshiftError, match="no older release"):
        rollback(home)
    assert rollback(home, names[2]).release == served(home) == names[2]
    assert serving(home)[1] == 6


def test_rollback_makes_a_night_under_way_stale(home):
    first = release_night(home, seed=1)
    release_night(home, seed=2)
    _, began_at = serving(home)
    rollback(home)
    with pytest.raises(StaleNight):
        release_night(home, seed=3, epoch=began_at)
    assert served(home) == first.release


def test_rollback_says_what_it_cannot_do(home):
    with pytest.raises(NightshiftError, match="no release yet"):
        rollback(home)
    only = release_night(home, seed=1).release
    with pytest.raises(NightshiftError, match=f"unknown. There are: {only}"):
        rollback(home, "r0042-00000000")
    with pytest.raises(NightshiftError, match="serves already"):
        rollback(home, only)


def test_rollback_to_a_lost_collection_is_refused(home):
    lost, now = release_night(home, seed=1), release_night(home, seed=2)
    shutil.rmtree(home / "milvus" / f"{lost.collection}.db")
    with pytest.raises(NightshiftError, match="not there"):
        rollback(home)
    assert served(home) == now.release


def test_prune_keeps_the_newest_and_marks_the_others(home):
    names = [release_night(home, seed=seed) for seed in (1, 2, 3, 4)]
    removed = prune(home, keep=2)
    assert sorted(removed) == [names[0].collection, names[1].collection]
    assert [(one.release, one.pruned) for one in list_releases(home)] == [
        (names[3].release, False),
        (names[2].release, False),
        (names[1].release, True),
        (names[0].release, True),
    ]
    with pytest.raises(NightshiftError, match="was pruned"):
        rollback(home, names[0].release)
    assert prune(home, keep=2) == []


def test_prune_never_takes_what_serves_nor_its_way_back(home):
    names = [release_night(home, seed=seed) for seed in (1, 2, 3, 4)]
    rollback(home)
    rollback(home)
    assert served(home) == names[1].release
    assert prune(home, keep=1) == [names[2].collection]
    assert rollback(home).release == names[0].release
    with pytest.raises(NightshiftError, match="is serving"):
        EmbeddedMilvus(home).drop(names[0].collection)


def test_prune_removes_candidates_but_not_one_that_is_being_built(home):
    release_night(home, seed=1)
    with pytest.raises(StaleNight):
        release_night(home, seed=2, epoch=0)
    with open_ledger(home) as ledger:
        candidate = ledger.generations()[0]
    with held(home, candidate):
        assert prune(home, keep=2) == []
    assert prune(home, keep=2) == [candidate.collection]


def test_a_pruned_release_made_again_is_a_new_generation(home):
    first = release_night(home, seed=1)
    for seed in (2, 3):
        release_night(home, seed=seed)
    assert prune(home, keep=1) == [first.collection]
    again = release_night(home, seed=1)
    assert (again.generation, again.digest) == (4, first.digest)


def test_readers_go_on_while_their_collection_is_pruned(home):
    release_night(home, seed=1)
    with Searcher.open(home, HashingEncoder) as searcher:
        before = searcher.search_many(QUERIES)
        for seed in (2, 3):
            release_night(home, seed=seed)
        assert len(prune(home, keep=1)) == 1
        assert searcher.search_many(QUERIES) == before
        assert searcher.refresh()
        assert searcher.release == served(home)
