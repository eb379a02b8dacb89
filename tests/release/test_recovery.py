"""A lost ledger is rebuilt from collections, manifests, and the pointer."""

from __future__ import annotations

import shutil

import pytest
from release_fixtures import ledgers, server
from release_world import HashingEncoder, lose_ledger, release_night, served, small, with_milvus

from tasks.core.base.errors import NightshiftError, StaleNight
from tasks.core.release.history import list_releases, serving
from tasks.core.release.publish import pin, prune, unpin
from tasks.core.release.publisher import Pointer
from tasks.core.release.rollback import find_withdrawn, rollback
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher


@ledgers
def test_a_lost_ledger_is_rebuilt_with_its_history(settings):
    first, second, third = (release_night(settings, seed=seed) for seed in (1, 2, 3))
    rollback(settings)
    releases_before = list_releases(settings)
    lose_ledger(settings)
    assert served(settings) == second.release
    assert list_releases(settings) == releases_before
    # The next night must not publish again what a user rolled back.
    assert find_withdrawn(settings, third.digest) == third.release
    assert release_night(settings, seed=4).generation == 4
    assert rollback(settings).release == second.release
    assert rollback(settings).release == first.release


@ledgers
def test_unfinished_releases_of_a_lost_ledger_are_removed_and_their_numbers_are_not_reused(settings):
    first = release_night(settings, seed=1)
    with pytest.raises(StaleNight):
        release_night(settings, seed=2, epoch=7)
    (orphan,) = open_publisher(settings.home, settings.milvus).collections() - {first.collection}
    lose_ledger(settings)
    assert prune(settings) == [orphan]
    assert open_publisher(settings.home, settings.milvus).collections() == {first.collection}
    lose_ledger(settings)
    assert release_night(settings, seed=2).generation == 3


@ledgers
def test_a_release_is_rebuilt_from_the_properties_of_its_collection(settings):
    release_night(settings, seed=1)
    second = release_night(settings, seed=2)
    lose_ledger(settings)
    shutil.rmtree(settings.home / "releases")
    again, _ = serving(settings)
    for name in ("release", "digest", "collection", "generation", "fingerprint", "rows", "encoder", "snapshot"):
        assert getattr(again, name) == getattr(second, name)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp")[0].release == second.release


@ledgers
def test_a_pinned_release_is_never_pruned_even_with_a_new_ledger(settings):
    releases = [release_night(settings, seed=seed) for seed in (1, 2, 3, 4)]
    few = with_milvus(settings, keep=2)
    assert pin(few, releases[0].release).release == releases[0].release
    lose_ledger(settings)
    assert prune(few) == [releases[1].collection]
    unpin(few.home, releases[0].release)
    assert prune(few) == [releases[0].collection]
    with pytest.raises(NightshiftError, match="unknown or pruned"):
        pin(few, releases[0].release)
    with pytest.raises(NightshiftError, match="not pinned"):
        unpin(few.home, releases[0].release)


def test_no_release_serves_until_the_next_night_when_none_loads(settings, caplog):
    first, _ = release_night(settings, seed=1), release_night(settings, seed=2)
    # A crash left the pointer on another release than the ledger, and both collections are lost.
    open_publisher(settings.home, settings.milvus).move_pointer(
        Pointer(release=first.release, epoch=1, collection=first.collection, fingerprint=first.fingerprint)
    )
    shutil.rmtree(settings.home / "milvus")
    assert serving(settings) == (None, 2)
    assert "with `nightshift rollback --to`, or make a new one with `nightshift run`" in caplog.text
    assert release_night(settings, seed=3).release == served(settings)


def test_a_release_stays_during_its_grace_period(settings):
    releases = [release_night(settings, seed=seed) for seed in (1, 2, 3, 4)]
    assert prune(with_milvus(settings, keep=2, grace_minutes=60)) == []
    assert len(prune(with_milvus(settings, keep=2))) == len(releases) - 2


def test_an_alias_of_another_home_is_left_alone(settings, tmp_path):
    alias = {"uri": server("lite"), "alias": f"shared_{tmp_path.name[-20:]}"}
    ours = release_night(small(tmp_path / "one", **alias), seed=1)
    theirs = small(tmp_path / "two", **alias)
    for act in (serving, prune, lambda settings: release_night(settings, seed=2)):
        with pytest.raises(NightshiftError, match="made in another home"):
            act(theirs)
    assert open_publisher(theirs.home, theirs.milvus).serving().release == ours.release
