from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from release_world import HashingEncoder, as_text, release_night

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import file_digest, files_under
from tasks.core.release.milvus.embedded import EmbeddedMilvus, probe
from tasks.core.release.publisher import Pointer
from tasks.core.search.searcher import Searcher

DIES_READING = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from release_world import HashingEncoder, settings_from
from tasks.core.search.searcher import Searcher
searcher = Searcher.open(settings_from(sys.argv[1]), HashingEncoder)
searcher.search("lamp")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_probe_passes_on_this_machine(settings):
    probe(settings.home)


def test_a_name_is_never_built_twice(settings):
    probe(settings.home)
    with pytest.raises(NightshiftError, match="never used twice"):
        probe(settings.home)


def test_published_bytes_are_never_written_by_readers(settings):
    release = release_night(settings)
    folder = settings.home / "milvus" / f"{release.collection}.db"
    before = {file: (file_digest(file), file.stat().st_mtime_ns) for file in files_under(folder)}
    with Searcher.open(settings, HashingEncoder) as first, Searcher.open(settings, HashingEncoder) as second:
        assert first.search("lamp river") == second.search("lamp river")
        shared = {file.suffix for file in files_under(folder) if file.stat().st_nlink > 1}
        assert shared == {".parquet", ".idx", ".f32"}
    assert {file: (file_digest(file), file.stat().st_mtime_ns) for file in files_under(folder)} == before


def test_readers_remove_their_clones_and_those_of_killed_readers(settings):
    release_night(settings)
    command = [sys.executable, "-c", DIES_READING, as_text(settings), str(Path(__file__).parents[1] / "fixtures")]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == -9
    clones = [path for path in (settings.home / "readers").iterdir() if path.is_dir()]
    assert len(clones) == 1
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert not clones[0].exists()
        assert searcher.search("lamp")[0].hits
    assert list((settings.home / "readers").iterdir()) == []


def test_the_error_names_a_missing_collection(settings):
    with pytest.raises(NightshiftError, match="pruned or removed"):
        EmbeddedMilvus(settings.home).open("nightshift_r0001_00000000")


def test_the_error_names_a_manually_damaged_pointer(settings):
    settings.home.mkdir()
    milvus = EmbeddedMilvus(settings.home)
    assert milvus.serving() is None
    milvus.move_pointer(Pointer(release="r", epoch=1, collection="c", fingerprint="f", why="publish"))
    assert milvus.serving().release == "r"
    (settings.home / "serving.json").write_text("{}")
    with pytest.raises(NightshiftError, match="not a pointer"):
        milvus.serving()


def test_a_generation_opens_while_another_reader_uses_it(settings):
    release = release_night(settings)
    milvus = EmbeddedMilvus(settings.home)
    with closing(milvus.open(release.collection)) as first, closing(milvus.open(release.collection)) as second:
        assert first.count() == second.count() == 200
        assert first.keys(198, 500) == second.keys(198, 200)
