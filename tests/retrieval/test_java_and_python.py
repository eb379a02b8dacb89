"""Java works with every folder name that Python supports, and leaves Python its stack."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_snapshot import snapshot_of

from flows.doctor import Check, examine
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.settings import Settings
from tasks.core.retrieval import jvm
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import queries

SETTINGS = MiningSettings(heap_mb=256, threads=1, scorer="lucene")
PASSAGES = {"p1": "the zebra grazes", "p2": "a lion sleeps", "p3": "狐 runs"}
ROOT = Path(__file__).parents[2]


def test_a_home_with_spaces_quotes_and_unicode_is_indexed_and_searched_in_the_c_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    home = tmp_path / 'nächt "home" o\'wl, 狐'
    snapshot = snapshot_of(home, PASSAGES, {"q1": "zebra", "q2": "löwe lion"})
    index = build_index(home, snapshot, SETTINGS)
    assert index.rows == 3
    assert search_bm25(home, index, queries(snapshot), 2, SETTINGS).rows == 2
    script = (
        "import sys; from pathlib import Path; from tasks.core.base.files import load;"
        "from tasks.core.base.ranking import Ranking; from tasks.core.base.receipts import Snapshot;"
        "from tasks.core.retrieval.bm25_scorer import open_scorer;"
        "from tasks.core.retrieval.postings import build_postings;"
        "home = Path.cwd(); snapshot = load(home, Snapshot, sys.argv[1]);"
        "scorer = open_scorer(build_postings(home, snapshot, 'en', 'porter'), Ranking());"
        "print([rows.tolist() for rows, _ in scorer.search(['zebra', 'l\\xf6we \\u72d0 lion'], 2)])"
    )
    environment = {**os.environ, "TMPDIR": str(home), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", script, snapshot.digest]  # in a new process, whose Java starts in the C locale
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True)
    assert done.stdout == "[[0], [1, 2]]\n", done.stderr


def test_the_doctor_indexes_in_the_home_and_cleans_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "a home"
    settings = Settings(home=home, mining=SETTINGS)
    assert "indexes below" in java_check(settings).detail
    assert not home.exists()
    monkeypatch.setattr(jvm, "java_environment", lambda: {**os.environ, "JAVA_TOOL_OPTIONS": "-Xmx"})
    failed = java_check(settings)
    assert not failed.passed
    assert "in Java: exit status 1" in failed.detail


def java_check(settings: Settings) -> Check:
    return next(check for check in examine(settings) if check.name == "java")


def test_java_in_this_process_leaves_the_stack_that_nested_json_needs(tmp_path: Path) -> None:
    file = tmp_path / "queries.jsonl"
    file.write_text('{"query": ' + "[" * 100_000 + "}\n")
    script = (
        "import sys; from pathlib import Path; from tasks.core.retrieval.analyzer import Analyzer;"
        "from tasks.core.search.shadow import read_queries;"
        "Analyzer('en', 'porter'); read_queries(Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", script, str(file)], env=environment, capture_output=True, text=True)
    assert done.returncode == 1, f"the process ended with status {done.returncode}"
    assert "nested too deeply" in done.stderr
