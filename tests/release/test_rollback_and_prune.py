from __future__ import annotations

import shutil

import pytest
from pymilvus.client.types import LoadState
from release_fixtures import everywhere, ledgers
from release_world import HashingEncoder, release_night, served, with_milvus

from tasks.core.base.errors import NightshiftError, StaleNight
from tasks.core.release.history import list_releases, serving
from tasks.core.release.ledger import open_ledger
from tasks.core.release.milvus.collection import connect
from tasks.core.release.names import short_name
from tasks.core.release.pins import pin, unpin
from tasks.core.release.prune import prune
from tasks.core.release.rollback import rollback
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.named_releases import open_release
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river n3", "violin harbour", "entry 40"]


def answers(settings):
    with Searcher.open(settings, HashingEncoder) as searcher:
        return searcher.search(QUERIES, 20)


@everywhere
def test_rollback_restores_the_previous_answers(settings):
    first = release_night(settings, seed=1)
    before = answers(settings)
    release_night(settings, seed=2)
    assert answers(settings) != before
    assert rollback(settings).release == first.release
    assert answers(settings) == before


@everywhere
def test_each_rollback_returns_to_the_previous_release(settings):
    names = [release_night(settings, seed=seed).release for seed in (1, 2, 3)]
    assert [rollback(settings).release, rollback(settings).release] == [names[1], names[0]]
    with pytest.raises(NightshiftError, match="no older release"):
        rollback(settings)
    assert rollback(settings, names[2]).release == served(settings) == names[2]
    assert serving(settings)[1] == 6


@everywhere
def test_rollback_makes_a_running_night_stale(settings):
    first = release_night(settings, seed=1)
    release_night(settings, seed=2)
    _, began_at = serving(settings)
    rollback(settings)
    with pytest.raises(StaleNight):
        release_night(settings, seed=3, epoch=began_at)
    assert served(settings) == first.release


def test_the_generation_is_part_of_the_release_name(settings):
    first, second = (release_night(settings, seed=seed).release for seed in (1, 2))
    assert rollback(settings, "r0001").release == first
    assert rollback(settings, second[:7]).release == second
    assert pin(settings, "r0001").release == first
    assert unpin(settings.home, "r0001") == first
    with pytest.raises(NightshiftError, match=f"'r000': matches several: {second}, {first}"):
        pin(settings, "r000")
    names = [first, second]
    assert [short_name(name, names) for name in names] == ["r0001", "r0002"]
    assert short_name("r0001-aa", ["r0001-aa", "r0001-bb"]) == "r0001-aa"  # numbers restart after a ledger is lost


def test_rollback_reports_why_it_is_impossible(settings):
    with pytest.raises(NightshiftError, match="no release yet"):
        rollback(settings)
    only = release_night(settings, seed=1).release
    with pytest.raises(NightshiftError, match=f"unknown. Known releases: {only}"):
        rollback(settings, "r0042-00000000")
    with pytest.raises(NightshiftError, match="already serves"):
        rollback(settings, only)
    newer = release_night(settings, seed=2).release
    rollback(settings)
    with pytest.raises(NightshiftError, match=f"oldest one kept. .*: nightshift rollback --to {newer}"):
        rollback(settings)


def test_rollback_to_a_lost_collection_is_refused(settings):
    lost, now = release_night(settings, seed=1), release_night(settings, seed=2)
    shutil.rmtree(settings.home / "milvus" / f"{lost.collection}.db")
    with pytest.raises(NightshiftError, match="not found"):
        rollback(settings)
    assert served(settings) == now.release


@everywhere
def test_prune_keeps_the_newest_releases_and_marks_older_releases(settings):
    names = [release_night(settings, seed=seed) for seed in (1, 2, 3, 4)]
    removed = prune(with_milvus(settings, keep=2))
    assert sorted(removed) == [names[0].collection, names[1].collection]
    assert [(entry.release, entry.pruned) for entry in list_releases(settings)] == [
        (names[3].release, False),
        (names[2].release, False),
        (names[1].release, True),
        (names[0].release, True),
    ]
    with pytest.raises(NightshiftError, match="was pruned"):
        rollback(settings, names[0].release)
    assert prune(with_milvus(settings, keep=2)) == []


@everywhere
def test_prune_never_removes_the_serving_release_or_its_predecessor(settings):
    names = [release_night(settings, seed=seed) for seed in (1, 2, 3, 4, 5)]
    for _ in range(3):
        rollback(settings)
    assert served(settings) == names[1].release
    assert prune(with_milvus(settings, keep=2)) == [names[2].collection]
    assert rollback(settings).release == names[0].release
    with pytest.raises(NightshiftError, match="is serving"):
        open_publisher(settings.home, settings.milvus).drop(names[0].collection)


@ledgers
def test_prune_removes_candidates_except_during_their_build(settings):
    release_night(settings, seed=1)
    with pytest.raises(StaleNight):
        release_night(settings, seed=2, epoch=0)
    with open_ledger(settings) as ledger:
        candidate = ledger.generations()[0]
        with ledger.lock_generation(candidate):
            assert prune(with_milvus(settings, keep=2)) == []
    assert prune(with_milvus(settings, keep=2)) == [candidate.collection]


def test_a_rebuilt_pruned_release_is_a_new_generation(settings):
    first = release_night(settings, seed=1)
    for seed in (2, 3):
        release_night(settings, seed=seed)
    assert prune(with_milvus(settings, keep=2)) == [first.collection]
    again = release_night(settings, seed=1)
    assert (again.generation, again.digest) == (4, first.digest)


def test_readers_continue_while_their_collection_is_pruned(settings):
    release_night(settings, seed=1)
    with Searcher.open(settings, HashingEncoder) as searcher:
        before = searcher.search(QUERIES)
        for seed in (2, 3):
            release_night(settings, seed=seed)
        assert len(prune(with_milvus(settings, keep=2))) == 1
        assert searcher.search(QUERIES) == before
        assert searcher.refresh()
        assert searcher.release == served(settings)


@pytest.mark.parametrize("settings", ["lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_retained_release_without_searches_is_released_from_memory(settings):
    first, second, third, fourth = (release_night(settings, seed=seed) for seed in (1, 2, 3, 4))
    pin(settings, first.release)
    prune(with_milvus(settings, keep=4, grace_minutes=60))
    assert loaded(settings, first, second, third, fourth) == [True] * 4
    with open_release(settings, second.release, HashingEncoder) as pinned:
        before = pinned.search(QUERIES)
        prune(with_milvus(settings, keep=4))
        assert loaded(settings, first, second, third, fourth) == [True, False, False, True]
        assert pinned.search(QUERIES) == before  # loads the collection again
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert rollback(settings).release == third.release
        prune(with_milvus(settings, keep=4))
        assert loaded(settings, first, second, third, fourth) == [True, False, True, False]
        assert searcher.search(QUERIES)[0].release == third.release  # no query fails


def loaded(settings, *releases):
    client = connect(settings.milvus.uri)
    states = [client.get_load_state(release.collection)["state"] for release in releases]
    client.close()
    return [state == LoadState.Loaded for state in states]
