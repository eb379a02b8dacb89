"""Damaged files in a home are detected, reported, set aside, and rebuilt."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from core_night import build_all_artifacts, small_settings
from file_damage import HARMS, cut, flip
from things_and_traits import write_collection

from tasks.core.base import checksums
from tasks.core.base.errors import Damaged, Mismatch
from tasks.core.base.files import CHECKSUMS, MANIFEST, files_under, load, produce, read_verified
from tasks.core.base.receipts import (
    ArmScores,
    Embeddings,
    Encoder,
    Evaluation,
    Index,
    Ingested,
    Negatives,
    Postings,
    Receipt,
    Reference,
    Run,
    Shingles,
    Snapshot,
    TextIndex,
    Tokens,
)
from tasks.core.base.search_receipts import DenseHits
from tasks.core.base.settings import Settings

KINDS = (Snapshot, Ingested, Index, Run, TextIndex, Tokens, Shingles, Negatives, Encoder, Embeddings, Evaluation)
KIND_OF_SHELF = {kind.shelf: kind for kind in (*KINDS, Postings, ArmScores, DenseHits, Reference)}


@pytest.fixture(scope="module")
def intact(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Build a home with an artifact of each kind; tests damage copies of it."""
    folder = tmp_path_factory.mktemp("whole")
    settings = small_settings(folder / "home", write_collection(folder / "source", more=20), tiny_model)
    build_all_artifacts(settings)
    assert {kind for kind, _ in artifacts(settings.home)} == set(KIND_OF_SHELF.values())
    return settings


@pytest.fixture
def settings(intact: Settings, tmp_path: Path) -> Settings:
    shutil.copytree(intact.home, tmp_path / "home")
    return intact.model_copy(update={"home": tmp_path / "home"})


def artifacts(home: Path) -> Iterator[tuple[type[Receipt], Path]]:
    for folder in sorted(home.glob("*/[!.]*")):
        if folder.is_dir():
            yield KIND_OF_SHELF[folder.parent.name], folder


def files_of(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.rglob("*")) if file.is_file()]


def contents(home: Path) -> dict[str, bytes]:
    """Return the bytes of all artifact files except those with durations, and their checksums."""
    all_files = [file for _, folder in artifacts(home) for file in files_of(folder)]
    timed = {MANIFEST, CHECKSUMS, "index.log", "search.log", "contracts.html"}
    return {
        str(file.relative_to(home)): file.read_bytes()
        for file in all_files
        if file.name not in timed and "lucene" not in file.parts and not file.name.endswith(".parquet.json")
    }


def set_aside(folder: Path) -> list[Path]:
    return sorted(folder.parent.glob(f".{folder.name}.damaged-*"))


def damage_each_file(home: Path, harms: Mapping[str, Callable[[Path], object]]) -> Iterator[tuple[str, Any, Path]]:
    """Apply each harm to each file; yield its description, the receipt read after it, and the file; then undo it."""
    for kind, folder in artifacts(home):
        for file in files_of(folder):
            if file.stat().st_size == 0:
                continue
            for name, harm in harms.items():
                before = file.read_bytes()
                harm(file)
                yield f"{name}: {file.relative_to(home)}", read_verified(folder, kind), file
                for moved in set_aside(folder):
                    moved.rename(folder)
                file.write_bytes(before)


def test_damage_to_any_file_is_detected_and_names_the_file(settings: Settings, caplog: Any) -> None:
    tries = 0
    for harm, receipt, file in damage_each_file(settings.home, HARMS):
        tries += 1
        if file.name == CHECKSUMS:
            assert receipt is not None, harm
            assert not caplog.records, harm
        else:
            assert receipt is None, harm
            (record,) = caplog.records
            assert str(file) in record.getMessage(), harm
            assert ".damaged-" in record.getMessage(), harm
        caplog.clear()
    assert tries > 300


def test_artifacts_of_an_earlier_version_are_checked_by_their_structure(settings: Settings) -> None:
    for _, folder in artifacts(settings.home):
        (folder / CHECKSUMS).unlink()
        os.utime(folder, (1e9, 1e9))
    for kind, folder in artifacts(settings.home):
        assert read_verified(folder, kind) is not None, folder
        assert (folder / CHECKSUMS).is_file()
        assert folder.stat().st_mtime == 1e9  # the time of last use is unchanged
    for _, folder in artifacts(settings.home):
        (folder / CHECKSUMS).unlink()
    harms = {name: HARMS[name] for name in ("cut", "emptied", "garbage")}
    for harm, receipt, file in damage_each_file(settings.home, harms):
        if file.suffix not in (".log", ".html", ".txt"):  # no step reads these files
            assert receipt is None, harm
        (file.parent / CHECKSUMS).unlink(missing_ok=True)


def test_a_night_rebuilds_damaged_artifacts_with_the_same_bytes(settings: Settings) -> None:
    before = contents(settings.home)
    draws = random.Random(7)
    broken = [folder for _, folder in artifacts(settings.home)]
    for folder in broken:
        file = draws.choice([file for file in files_of(folder) if file.name != CHECKSUMS and file.stat().st_size])
        HARMS[draws.choice(list(HARMS))](file)
    build_all_artifacts(settings)
    assert contents(settings.home) == before
    assert [len(set_aside(folder)) for folder in broken] == [1] * len(broken)
    assert all(receipt.reused for receipt in build_all_artifacts(settings))


def test_concurrent_readers_set_a_damaged_artifact_aside_once(settings: Settings) -> None:
    folder = next(settings.home.glob("runs/[!.]*"))
    for _ in range(5):
        flip(folder / "run.parquet")
        with ThreadPoolExecutor(8) as pool:
            read = list(pool.map(lambda _: read_verified(folder, Run), range(8)))
        assert read == [None] * 8
        (moved,) = set_aside(folder)
        moved.rename(folder)
        flip(folder / "run.parquet")
        assert read_verified(folder, Run) is not None


def build(folder: Path) -> Mapping[str, Any]:
    (folder / "data").write_bytes(b"x" * 1000)
    return {"rows": 3}


def test_a_crash_after_setting_an_artifact_aside_does_not_set_it_aside_again(tmp_path: Path) -> None:
    def crash(folder: Path) -> Mapping[str, Any]:
        raise KeyboardInterrupt

    receipt = produce(tmp_path, Index, {}, build)
    flip(receipt.path / "data")
    with pytest.raises(KeyboardInterrupt):
        produce(tmp_path, Index, {}, crash)
    rebuilt = produce(tmp_path, Index, {}, build)
    assert (rebuilt.reused, rebuilt.digest) == (False, receipt.digest)
    assert len(set_aside(receipt.path)) == 1


def test_a_damaged_partial_build_restarts_once_and_a_second_failure_is_raised(tmp_path: Path) -> None:
    def resuming(folder: Path) -> Mapping[str, Any]:
        state = folder / "state"
        if state.exists() and state.read_text() != "complete":
            raise ValueError("damaged state")
        state.write_text("cut")
        if not (tmp_path / "crashed").exists():
            (tmp_path / "crashed").touch()
            raise KeyboardInterrupt
        return {"rows": 1}

    with pytest.raises(KeyboardInterrupt):
        produce(tmp_path, Index, {}, resuming, resumable=True)
    assert produce(tmp_path, Index, {}, resuming, resumable=True).rows == 1

    def fail(folder: Path) -> Mapping[str, Any]:
        raise ValueError("bad rows")

    for _ in range(2):
        with pytest.raises(ValueError, match="bad rows"):
            produce(tmp_path, Index, {"fails": True}, fail, resumable=True)


def test_the_error_for_a_damaged_referenced_artifact_names_its_place_and_the_next_step(tmp_path: Path) -> None:
    receipt = produce(tmp_path, Index, {}, build)
    cut(receipt.path / "data")
    with pytest.raises(Damaged, match=r"indexes/.*set aside as \..*backup.*rollback"):
        load(tmp_path, Index, receipt.digest)
    with pytest.raises(Mismatch, match="missing, although"):
        load(tmp_path, Index, "0" * 20)


def test_a_damaged_artifact_in_a_read_only_home_is_a_readable_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = produce(tmp_path, Index, {}, build)

    def refuse(self: Path, target: Path) -> None:
        raise PermissionError("read-only")

    monkeypatch.setattr(Path, "rename", refuse)  # root may write anywhere
    assert read_verified(receipt.path, Index) is not None
    flip(receipt.path / "data")
    with pytest.raises(Damaged, match=r"indexes/.*/data: its content has changed.*write access"):
        read_verified(receipt.path, Index)


def test_an_unchanged_file_is_read_once_in_a_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = produce(tmp_path, Index, {}, build)
    earlier = time.time_ns() - 10**9  # digests of files that were just written are not kept
    for file in files_under(receipt.path):
        os.utime(file, ns=(earlier, earlier))
    read_verified(receipt.path, Index)
    monkeypatch.setattr(checksums, "file_digest", None)
    assert read_verified(receipt.path, Index) is not None
    receipt.path.rename(receipt.path.with_name("0"))
    assert read_verified(receipt.path.with_name("0"), Index) is not None


def test_a_second_write_with_the_same_time_of_modification_is_noticed(tmp_path: Path) -> None:
    file, now = tmp_path / "data", time.time_ns() + 10**10  # a time that no other file has
    digests = set()
    for content in (b"one", b"two", b"six"):
        file.write_bytes(content)
        os.utime(file, ns=(now, now))
        digests.add(checksums.digest_once(file))
    assert len(digests) == 3


def test_a_digest_that_is_computed_again_replaces_the_kept_digest(tmp_path: Path) -> None:
    file, earlier = tmp_path / "data", time.time_ns() - 10**9
    file.write_bytes(b"whole")
    os.utime(file, ns=(earlier, earlier))
    whole = checksums.digest_once(file)
    file.write_bytes(b"wrong")
    os.utime(file, ns=(earlier, earlier))
    checksums.check_digest(file, whole)  # not read again
    for again in (True, False):
        with pytest.raises(Damaged):
            checksums.check_digest(file, whole, again=again)
