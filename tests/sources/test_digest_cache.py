"""An unchanged source is not read again; any change of a file is noticed."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from things_and_traits import write_collection

from tasks.core.base.sections.data import DataSettings
from tasks.core.sources import digest_cache
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.source import Source, find_source


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_collection(tmp_path / "source")


@pytest.fixture(autouse=True)
def tomorrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash files a day after they were written: no program can set back the time of a status change."""
    now = time.time
    monkeypatch.setattr(digest_cache.time, "time", lambda: now() + 86_400)


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []
    digest = Location.digest

    def record(self: Location, file: Stored) -> str:
        names.append(file.name)
        return digest(self, file)

    monkeypatch.setattr(Location, "digest", record)
    return names


def open_source(source: Path) -> Source:
    return find_source(DataSettings(format="beir", path=source), source.parent / "home")


def test_an_unchanged_source_is_read_once(source: Path, hashed: list[str]) -> None:
    first = open_source(source)
    assert len(hashed) == 5
    hashed.clear()
    assert open_source(source).identity == first.identity
    assert hashed == []
    assert find_source(DataSettings(format="beir", path=source)).identity == first.identity  # without a home: all files
    assert len(hashed) == 5


def test_any_change_of_a_file_is_noticed(source: Path, hashed: list[str]) -> None:
    first = open_source(source)
    corpus = source / "corpus.jsonl"
    text, status = corpus.read_text(), corpus.stat()
    changes = [text + '{"_id": "new", "text": "a silent market"}\n', text.replace("ancient", "anxious"), text[:-1]]
    for changed in changes:
        hashed.clear()
        corpus.write_text(changed)
        os.utime(corpus, ns=(status.st_atime_ns, status.st_mtime_ns))  # as copying tools do
        assert open_source(source).identity != first.identity
        assert hashed == ["corpus.jsonl"]
    replacement = source / "other"
    replacement.write_text(text)
    replacement.rename(corpus)
    assert open_source(source).identity == first.identity


def test_a_file_written_just_before_it_was_hashed_is_hashed_again(
    source: Path, hashed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    moment = (source / "queries.jsonl").stat().st_ctime + 1
    monkeypatch.setattr(digest_cache.time, "time", lambda: moment)
    open_source(source)
    hashed.clear()
    open_source(source)
    assert "queries.jsonl" in hashed


def test_a_damaged_or_missing_cache_costs_only_time(source: Path, hashed: list[str]) -> None:
    first = open_source(source)
    file = source.parent / "home" / digest_cache.FILE
    record = json.loads(file.read_text())
    for damaged in ("", "{", json.dumps(record).replace(first_digest(record), "0" * 64)):
        file.write_text(damaged)
        hashed.clear()
        assert open_source(source).identity == first.identity
        assert len(hashed) == 5
    assert str(source) not in file.read_text()  # an address may contain a password


def first_digest(record: dict[str, dict[str, dict[str, dict[str, str]]]]) -> str:
    (entries,) = record["sources"].values()
    return entries["corpus.jsonl"]["digest"]


def test_two_sources_share_a_home(source: Path, tmp_path: Path, hashed: list[str]) -> None:
    other = write_collection(tmp_path / "other", more=3)
    open_source(source), open_source(other)
    hashed.clear()
    open_source(source), open_source(other)
    assert hashed == []
