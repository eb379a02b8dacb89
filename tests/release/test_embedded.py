from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from release_world import HashingEncoder, release_night

from tasks.core.errors import NightshiftError
from tasks.core.files import file_digest, files_under
from tasks.core.release.embedded import EmbeddedMilvus, probe
from tasks.core.release.publisher import Pointer
from tasks.core.search.searcher import Searcher

DIES_READING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from release_world import HashingEncoder
from tasks.core.search.searcher import Searcher
searcher = Searcher.open(Path(sys.argv[1]), HashingEncoder)
searcher.search("lamp")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_the_probe_passes_here(home):
    probe(home)


def test_a_name_is_never_built_twice(home):
    probe(home)
    with pytest.raises(NightshiftError, match="never used twice"):
        probe(home)


def test_published_bytes_are_never_written_by_readers(home):
    release = release_night(home)
    folder = home / "milvus" / f"{release.collection}.db"
    before = {file: (file_digest(file), file.stat().st_mtime_ns) for file in files_under(folder)}
    with Searcher.open(home, HashingEncoder) as one, Searcher.open(home, HashingEncoder) as other:
        assert one.search("lamp river") == other.search("lamp river")
        shared = {file.suffix for file in files_under(folder) if file.stat().st_nlink > 1}
        assert shared == {".parquet", ".idx"}
    assert {file: (file_digest(file), file.stat().st_mtime_ns) for file in files_under(folder)} == before


def test_readers_remove_their_clones_and_those_of_the_dead(home):
    release_night(home)
    command = [sys.executable, "-c", DIES_READING, str(home), str(Path(__file__).parent)]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == -9
    left = [path for path in (home / "readers").iterdir() if path.is_dir()]
    assert len(left) == 1
    with Searcher.open(home, HashingEncoder) as searcher:
        assert not left[0].exists()
        assert searcher.search("lamp").hits
    assert list((home / "readers").iterdir()) == []


def test_a_missing_collection_is_named(home):
    with pytest.raises(NightshiftError, match="pruned or removed"):
        EmbeddedMilvus(home).open("nightshift_r0001_00000000")


def test_a_pointer_damaged_by_hand_is_named(home):
    home.mkdir()
    milvus = EmbeddedMilvus(home)
    assert milvus.serving() is None
    milvus.flip(Pointer(release="r", epoch=1, collection="c", fingerprint="f", why="publish"))
    assert milvus.serving().release == "r"
    (home / "serving.json").write_text("{}")
    with pytest.raises(NightshiftError, match="not a pointer"):
        milvus.serving()


def test_a_generation_opens_while_another_reader_has_it(home):
    release = release_night(home)
    milvus = EmbeddedMilvus(home)
    with closing(milvus.open(release.collection)) as one, closing(milvus.open(release.collection)) as other:
        assert one.count() == other.count() == 200
        assert one.keys(198, 500) == other.keys(198, 200)
