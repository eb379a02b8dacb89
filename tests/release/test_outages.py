"""After a full disk or an outage of Milvus, the old release still serves and the night can run again."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from milvus_servers import LiteServer, wait_for
from release_world import HashingEncoder, as_text, at, encoder_of, release_night, served, small

from tasks.core.base.errors import Unreachable
from tasks.core.release.history import check_loads, serving
from tasks.core.release.prune import prune
from tasks.core.release.vector_stores import open_publisher
from tasks.core.search.searcher import Searcher

WORLD = Path(__file__).parents[1] / "fixtures" / "release_world.py"
BLOCK = 4096


@pytest.fixture
def small_disk(tmp_path):
    """Mount a small file system; yield its folder and a function that resizes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def sized(option, size):
        return subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"{option}size={size}", "none", folder], capture_output=True
        )

    if shutil.which("mount") is None or sized("", 256 << 20).returncode:
        pytest.skip("this user may not mount a tmpfs, so no disk can be made full")
    try:
        yield folder, lambda size: sized("remount,", size).check_returncode()
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_night_and_not_the_service(small_disk, capsys):
    folder, resize = small_disk
    settings = small(folder / "var")
    before = release_night(settings, seed=1)
    release_night(small(folder / "copy"), seed=2)
    needed = sum(file.stat().st_blocks * 512 for file in (folder / "copy").rglob("*"))
    shutil.rmtree(folder / "copy")
    ends = []
    for share in (0.02, 0.2, 0.4, 0.6, 0.7, 0.8, 0.9, 0.95, 3):
        resize((shutil.disk_usage(folder).used + int(share * needed)) // BLOCK * BLOCK)
        command = [sys.executable, str(WORLD), as_text(settings), "2", "never logged", "SIGKILL"]
        night = subprocess.run(command, capture_output=True, text=True, timeout=120)
        ends.append(night.returncode)
        resize(256 << 20)
        current, _ = serving(settings)
        check_loads(current, open_publisher(settings.home, settings.milvus))
        assert (current.release == before.release) == (night.returncode != 0), night.stderr
        prune(settings)
        assert len(open_publisher(settings.home, settings.milvus).collections()) == len(
            {before.release, current.release}
        )
    with capsys.disabled():
        print(f"\n{len(ends) - ends.count(0)} of {len(ends)} nights ended on a full disk, none of the service")
    assert ends[0] == 1
    assert ends[-1] == 0


@pytest.fixture
def lite(tmp_path):
    server = LiteServer(tmp_path / "server")
    yield server
    server.kill()


@pytest.mark.parametrize("line", ["building", "128 of 200", "flushed", "closed", "count equal"])
def test_a_milvus_restarted_during_the_night_gets_its_release(tmp_path, lite, line):
    settings = small(tmp_path / "var", uri=lite.uri)
    before = release_night(settings, seed=1)

    with at(line, lite.kill), pytest.raises(Unreachable):
        release_night(settings, seed=2)
    lite.start()
    assert served(settings) == before.release
    again = release_night(settings, seed=2)
    assert served(settings) == again.release
    check_loads(again, open_publisher(settings.home, settings.milvus))
    prune(settings)
    assert open_publisher(settings.home, settings.milvus).collections() == {before.collection, again.collection}


def test_an_unreachable_milvus_is_reported_and_a_searcher_resumes_after_its_return(tmp_path, lite):
    settings = small(tmp_path / "var", uri=lite.uri, query_seconds=1)
    release = release_night(settings, seed=1)
    with Searcher.open(settings, HashingEncoder) as searcher:
        before = searcher.search(["lamp river"])
        lite.kill()
        with pytest.raises(Unreachable, match="no answer"):
            searcher.search("lamp river")
        with pytest.raises(Unreachable, match=f"Milvus at {lite.uri}"):
            serving(settings)
        with pytest.raises(Unreachable):
            release_night(settings, seed=2, epoch=1)
        lite.start()
        # Not at once: gRPC waits longer after each failed attempt.
        assert wait_for(lambda: searcher.search(["lamp river"]), lite.process, 60) == before
    assert served(settings) == release.release


def test_a_token_is_never_shown(tmp_path, lite, caplog):
    settings = small(tmp_path / "var", uri=lite.uri, token="root:Sesame42")
    with caplog.at_level("DEBUG"):
        release_night(settings, seed=1)
        lite.kill()
        with pytest.raises(Unreachable) as error:
            serving(settings)
    assert encoder_of(settings.home).fingerprint
    assert "Sesame42" not in f"{caplog.text} {error.value} {settings!r} {settings.model_dump_json()}"
