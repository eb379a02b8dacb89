"""Find Java, run it in a child process, and stop it with its parent."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

import pytest
from small_snapshot import snapshot_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index
from tasks.core.retrieval.jvm import find_java, java_version, run_java

SEARCHER = "io.anserini.search.SearchCollection"


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    home = tmp_path_factory.mktemp("java")
    return build_index(home, snapshot_of(home, {"a": "fox"}, {}), MiningSettings(heap_mb=128))


def java_home(folder, version):
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "java").touch()
    (folder / "release").write_text(f'IMPLEMENTOR="x"\nJAVA_VERSION="{version}"\n')
    return folder


def test_java_starts():
    assert "openjdk" in java_version()


def test_a_recent_java_home_is_used_and_an_old_java_home_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path / "new", "21.0.4")))
    assert find_java() == tmp_path / "new" / "bin" / "java"
    for unfit in (java_home(tmp_path / "old", "17.0.15"), tmp_path / "missing"):
        monkeypatch.setenv("JAVA_HOME", str(unfit))
        assert find_java().exists()
        assert tmp_path not in find_java().parents


def test_the_error_names_a_java_that_does_not_start(tmp_path, monkeypatch):
    monkeypatch.setenv("JAVA_HOME", str(java_home(tmp_path / "broken", "21.0.4")))
    with pytest.raises(NightshiftError, match=r"broken/bin/java does not start: .* fix JAVA_HOME"):
        java_version()


def test_a_failure_shows_the_log_and_a_next_step(tmp_path):
    with pytest.raises(NightshiftError, match=r"(?s)exit status 1\. .*doctor.*NoSuchClass"):
        run_java("no.NoSuchClass", [], heap_mb=64, log_file=tmp_path / "log", work=tmp_path)


def test_a_query_that_java_drops_with_exit_status_zero_is_a_failure(tmp_path, index):
    topics = tmp_path / "topics.tsv"
    topics.write_text("0\tfox\n1\t" + " ".join(f"word{number}" for number in range(3000)) + "\n")
    arguments = ["-index", str(index.path / "lucene"), "-topics", str(topics), "-topicReader", "TsvInt", "-bm25"]
    with pytest.raises(NightshiftError, match="TooManyClauses"):
        run_java(
            SEARCHER,
            [*arguments, "-output", str(tmp_path / "out")],
            heap_mb=128,
            log_file=tmp_path / "log",
            work=tmp_path,
        )


def test_java_in_this_process_leaves_its_locale():
    script = (
        "import locale; from tasks.core.retrieval.analyzer import Analyzer; before = locale.setlocale(locale.LC_ALL);"
        "Analyzer('en', 'porter'); print(before == locale.setlocale(locale.LC_ALL), ';' in before)"
    )
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}  # Python sets the characters' locale only, Java all of it
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.stdout == "True True\n", done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_java_dies_with_a_parent_that_is_killed(tmp_path, index):
    pipe, topics = tmp_path / "stopwords", tmp_path / "topics.tsv"
    os.mkfifo(pipe)
    topics.write_text("0\tfox\n")
    arguments = ["-index", f"{index.path}/lucene", "-topics", f"{topics}", "-topicReader", "TsvInt", "-bm25"]
    arguments += ["-stopwords", f"{pipe}", "-output", "o"]
    script = (
        "from pathlib import Path; from tasks.core.retrieval.jvm import run_java;"
        f"run_java({SEARCHER!r}, {arguments!r}, heap_mb=128, log_file=Path('log'), work=Path('.'))"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], cwd=tmp_path)
    end = open_when_read(pipe, parent)  # Java is running now and waits for input that never comes
    parent.kill()
    parent.wait()
    poller = select.poll()
    poller.register(end, 0)
    events = poller.poll(20_000)
    os.close(end)
    assert events == [(end, select.POLLERR)]  # no process has the other end open


def open_when_read(pipe, parent):
    """Open the pipe for writing as soon as a process has opened it for reading."""
    while True:
        try:
            return os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                pytest.fail(f"exited with {parent.wait(timeout=0.05)} before it read the pipe")
