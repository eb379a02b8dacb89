from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from release_fixtures import everywhere
from release_world import HashingEncoder, as_text, encoder_of, release_night, served

from tasks.core.base.errors import StaleNight
from tasks.core.base.files import read_receipt
from tasks.core.base.receipts import Release
from tasks.core.base.resolved_settings import resolve
from tasks.core.release.history import list_releases, serving
from tasks.core.release.ledger import open_ledger
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

WORLD = Path(__file__).parents[1] / "fixtures" / "release_world.py"


def publish_in_another_process(settings, seed, kill_at):
    command = [sys.executable, str(WORLD), as_text(settings), str(seed), kill_at, "SIGKILL"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def generations(settings):
    with open_ledger(settings) as ledger:
        return ledger.generations()


@everywhere
def test_a_release_serves_with_its_encoder_index_and_manifest(settings):
    assert serving(settings) == (None, 0)
    release = release_night(settings, seed=1)
    now, epoch = serving(settings)
    assert (now.release, epoch, now.rows, now.metrics) == (release.release, 1, 200, {"ndcg@10": 0.01})
    assert release.release.startswith("r0001-")
    pointer = open_publisher(settings.home, settings.milvus).serving()
    assert (pointer.release, pointer.collection) == (release.release, release.collection)
    assert pointer.fingerprint == release.fingerprint == encoder_of(settings.home, 1).fingerprint
    assert json.loads((release.path / "manifest.json").read_text())["encoder"] == encoder_of(settings.home, 1).digest


def test_a_release_records_its_settings_and_older_releases_without_them_are_read(settings):
    release = release_night(settings, seed=1)
    assert release.settings == resolve(settings)
    assert [entry.settings for entry in list_releases(settings)] == [release.settings]
    manifest = json.loads((release.path / "manifest.json").read_text())
    assert manifest.pop("settings") == release.settings
    (release.path / "manifest.json").write_text(json.dumps(manifest))
    assert read_receipt(release.path, Release).settings == {}


@everywhere
def test_a_repeated_night_builds_nothing_and_does_not_move_the_pointer(settings):
    first = release_night(settings, seed=1)
    again = release_night(settings, seed=1)
    assert (again.release, serving(settings)[1], len(generations(settings))) == (first.release, 1, 1)


@everywhere
def test_republishing_an_older_release_moves_the_pointer_without_a_build(settings, caplog):
    first, _ = release_night(settings, seed=1), release_night(settings, seed=2)
    with caplog.at_level(logging.INFO, "nightshift.release"):
        third = release_night(settings, seed=1)
    assert (third.release, served(settings), serving(settings)[1]) == (first.release, first.release, 3)
    assert len(generations(settings)) == 2
    assert "nothing to build" in caplog.text


@everywhere
def test_a_stale_night_does_not_move_the_pointer(settings):
    _, began_at = serving(settings)
    newer = release_night(settings, seed=2)
    with pytest.raises(StaleNight, match="went live during this night"):
        release_night(settings, seed=1, epoch=began_at)
    assert served(settings) == newer.release
    assert [entry.release for entry in list_releases(settings)] == [newer.release]
    assert (
        len(open_publisher(settings.home, settings.milvus).collections()) == 2
    )  # the candidate stays until it is pruned


@everywhere
def test_a_release_published_during_the_build_is_not_overwritten(settings):
    newer = []

    class SlowEncoder(HashingEncoder):
        """An encoder that lets another night publish during verification."""

        def encode_queries(self, texts):
            if not newer:
                newer.append(release_night(settings, seed=2))
            return super().encode_queries(texts)

    with pytest.raises(StaleNight):
        release_night(settings, seed=1, epoch=0, loader=SlowEncoder)
    assert served(settings) == newer[0].release


@everywhere
@pytest.mark.parametrize(
    ("line", "live_after_kill", "built_again"),
    [
        ("building", False, True),
        ("128 of 200", False, True),
        ("flushed", False, True),
        ("indexed", False, True),
        ("closed", False, True),
        ("verified", False, False),
        ("is live", True, False),
        ("recorded", True, False),
    ],
)
def test_a_night_killed_at_any_step_publishes_on_the_next_run(settings, line, live_after_kill, built_again):
    before = release_night(settings, seed=1)
    killed = publish_in_another_process(settings, 2, kill_at=line)
    assert killed.returncode == -9, killed.stderr
    assert (served(settings) == before.release) != live_after_kill
    after = release_night(settings, seed=2)
    assert (served(settings), serving(settings)[1]) == (after.release, 2)
    assert after.generation == (3 if built_again else 2)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("entry 17 n17")[0].release == after.release
    assert [entry.release for entry in list_releases(settings)] == [after.release, before.release]


def test_a_dangling_pointer_is_reset_to_the_last_release_of_the_ledger(settings):
    first = release_night(settings, seed=1)
    pointer = json.loads((settings.home / "serving.json").read_text())
    (settings.home / "serving.json").write_text(json.dumps({**pointer, "release": "r0009-beefbeef", "epoch": 9}))
    assert serving(settings)[1] == 9
    assert json.loads((settings.home / "serving.json").read_text())["release"] == first.release
