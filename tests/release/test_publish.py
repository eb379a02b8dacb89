from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from release_world import HashingEncoder, embeddings_of, encoder_of, release_night, served, snapshot_of, texts

from tasks.core.errors import StaleNight
from tasks.core.release.embedded import EmbeddedMilvus
from tasks.core.release.history import list_releases, serving
from tasks.core.release.ledger import open_ledger
from tasks.core.search.searcher import Searcher

WORLD = Path(__file__).with_name("release_world.py")


def publish_in_another_process(home, seed, kill_at):
    command = [sys.executable, str(WORLD), str(home), str(seed), kill_at]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def generations(home):
    with open_ledger(home) as ledger:
        return ledger.generations()


def test_a_release_serves_with_all_that_belongs_to_it(home):
    assert serving(home) == (None, 0)
    release = release_night(home, seed=1)
    now, epoch = serving(home)
    assert (now.release, epoch, now.rows, now.metrics) == (release.release, 1, 200, {"ndcg@10": 0.01})
    assert release.release.startswith("r0001-")
    pointer = json.loads((home / "serving.json").read_text())
    assert (pointer["collection"], pointer["fingerprint"]) == (release.collection, release.fingerprint)
    assert json.loads((release.path / "manifest.json").read_text())["encoder"] == encoder_of(home, 1).digest


def test_the_same_night_again_builds_nothing_and_moves_nothing(home):
    first = release_night(home, seed=1)
    again = release_night(home, seed=1)
    assert (again.release, serving(home)[1], len(generations(home))) == (first.release, 1, 1)


def test_an_older_release_made_again_is_pointed_to_and_not_built(home, caplog):
    first, _ = release_night(home, seed=1), release_night(home, seed=2)
    with caplog.at_level(logging.INFO, "nightshift.release"):
        third = release_night(home, seed=1)
    assert (third.release, served(home), serving(home)[1]) == (first.release, first.release, 3)
    assert len(generations(home)) == 2
    assert "nothing to build" in caplog.text


def test_a_stale_night_leaves_the_pointer_alone(home):
    _, began_at = serving(home)
    newer = release_night(home, seed=2)
    with pytest.raises(StaleNight, match="went live while this night was under way"):
        release_night(home, seed=1, epoch=began_at)
    assert served(home) == newer.release
    assert [one.release for one in list_releases(home)] == [newer.release]
    assert len(EmbeddedMilvus(home).collections()) == 2  # the candidate stays for the janitor


def test_a_release_that_went_live_within_the_build_is_not_overwritten(home):
    newer = []

    class SlowEncoder(HashingEncoder):
        """Another night publishes while this one verifies."""

        def encode_queries(self, asked):
            if not newer:
                newer.append(release_night(home, seed=2))
            return super().encode_queries(asked)

    from tasks.core.release.publish import publish
    from tasks.core.settings import MilvusSettings

    encoder, snapshot = encoder_of(home, 1), snapshot_of(home, texts())
    figures = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": "", "reason": ""}
    with pytest.raises(StaleNight):
        publish(
            home,
            MilvusSettings(samples=8),
            encoder=encoder,
            embeddings=embeddings_of(home, encoder, snapshot),
            snapshot=snapshot,
            expected_epoch=0,
            loader=SlowEncoder,
            **figures,
        )
    assert served(home) == newer[0].release


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
def test_a_night_killed_at_any_step_is_run_again_and_serves(home, line, live_after_kill, built_again):
    before = release_night(home, seed=1)
    killed = publish_in_another_process(home, 2, kill_at=line)
    assert killed.returncode == -9, killed.stderr
    assert (served(home) == before.release) != live_after_kill
    after = release_night(home, seed=2)
    assert (served(home), serving(home)[1]) == (after.release, 2)
    assert after.generation == (3 if built_again else 2)
    with Searcher.open(home, HashingEncoder) as searcher:
        assert searcher.search("entry 17 n17").release == after.release
    assert [one.release for one in list_releases(home)] == [after.release, before.release]


def test_a_pointer_to_nothing_goes_back_to_the_last_release_of_the_ledger(home):
    first = release_night(home, seed=1)
    pointer = json.loads((home / "serving.json").read_text())
    (home / "serving.json").write_text(json.dumps({**pointer, "release": "r0009-beefbeef", "epoch": 9}))
    assert serving(home)[1] == 9
    assert json.loads((home / "serving.json").read_text())["release"] == first.release


def test_a_lost_ledger_is_mended_from_the_pointer_and_numbers_go_on(home):
    release_night(home, seed=1)
    second = release_night(home, seed=2)
    for file in home.glob("ledger.sqlite*"):
        file.unlink()
    assert (served(home), serving(home)[1]) == (second.release, 2)
    assert release_night(home, seed=3).generation == 3
