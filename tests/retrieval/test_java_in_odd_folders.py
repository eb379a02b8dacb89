"""Java works with every folder name that Python supports."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from small_snapshot import snapshot_of

from flows.doctor import Check, examine
from tasks.core.base.settings import MiningSettings, Settings
from tasks.core.retrieval import jvm
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_searcher import Bm25Searcher
from tasks.core.snapshot.reader import queries

SETTINGS = MiningSettings(heap_mb=256, threads=1)
PASSAGES = {"p1": "the zebra grazes", "p2": "a lion sleeps"}


def test_a_home_with_spaces_quotes_and_unicode_is_indexed_and_searched_in_the_c_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    home = tmp_path / 'nächt "home" o\'wl, 狐'
    snapshot = snapshot_of(home, PASSAGES, {"q1": "zebra", "q2": "löwe lion"})
    index = build_index(home, snapshot, SETTINGS)
    assert index.rows == 2
    assert search_bm25(home, index, queries(snapshot), 2, SETTINGS).rows == 2
    lexical = Bm25Searcher(home, snapshot.digest, SETTINGS, 30)
    try:
        assert lexical.search(["zebra", "löwe lion"], 2) == [[0], [1]]
    finally:
        lexical.close()


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
