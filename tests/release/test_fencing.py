"""One publisher at a time: a publisher that was paused, or used another ledger, cannot move the pointer."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from release_fixtures import ledgers
from release_world import as_text, at, lose_ledger, release_night, served

from tasks.core.base.errors import NightshiftError, StaleNight
from tasks.core.release import ledger_database as database
from tasks.core.release.history import serving

WORLD = Path(__file__).parents[1] / "fixtures" / "release_world.py"


@contextmanager
def paused(settings, seed, line):
    """Run a publisher in another process and stop it (SIGSTOP) at a log line; `resume` continues it."""
    command = [sys.executable, str(WORLD), as_text(settings), str(seed), line, "SIGSTOP"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    try:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status), process.stderr.read()
        yield process
    finally:
        process.kill()
        process.wait()


def resume(process):
    process.send_signal(signal.SIGCONT)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


@ledgers
def test_a_publisher_paused_after_its_checks_is_refused_after_another_publication(settings):
    release_night(settings, seed=1)
    with paused(settings, 2, "verified") as late:
        newer = release_night(settings, seed=3)
        code, errors = resume(late)
    assert code == 1
    assert "StaleNight" in errors
    assert (served(settings), serving(settings)[1]) == (newer.release, 2)


@ledgers
def test_a_publisher_paused_between_check_and_move_blocks_other_publishers(settings, monkeypatch):
    release_night(settings, seed=1)
    _, began_at = serving(settings)
    with paused(settings, 2, "flip") as first:
        monkeypatch.setattr(database, "BUSY_SECONDS", 0.5)
        with pytest.raises(NightshiftError, match="holds it"):
            release_night(settings, seed=3, epoch=began_at)
        assert resume(first)[0] == 0
    current, epoch = serving(settings)
    assert (current.reason, epoch) == ("seed 2", 2)
    with pytest.raises(StaleNight):
        release_night(settings, seed=3, epoch=began_at)
    assert served(settings) == current.release


@ledgers
def test_a_publisher_killed_between_check_and_move_blocks_nobody(settings):
    before = release_night(settings, seed=1)
    with paused(settings, 2, "flip"):
        pass
    assert served(settings) == before.release
    assert release_night(settings, seed=3).release == served(settings)


@ledgers
def test_a_night_whose_ledger_was_removed_does_not_move_the_pointer(settings):
    before = release_night(settings, seed=1)
    with at(": keys", lambda: lose_ledger(settings)), pytest.raises(StaleNight, match="removed or replaced"):
        release_night(settings, seed=2)
    assert served(settings) == before.release


@ledgers
def test_a_night_whose_ledger_was_replaced_does_not_move_the_pointer(settings):
    before = release_night(settings, seed=1)

    def replace():
        lose_ledger(settings)
        serving(settings)

    with at(": keys", replace), pytest.raises(StaleNight, match="removed or replaced"):
        release_night(settings, seed=2)
    assert served(settings) == before.release
