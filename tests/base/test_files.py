from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tasks.core.base.checksums import write_checksums
from tasks.core.base.errors import Mismatch
from tasks.core.base.files import CHECKSUMS, MANIFEST, digest_of, load, produce, read_receipt, write_json
from tasks.core.base.receipts import Index
from tasks.core.evaluation.systems import System
from tasks.core.snapshot.splits import Split

KEY = {"snapshot": "abc"}


def build(folder: Path) -> Mapping[str, Any]:
    (folder / "data").write_text("x")
    return {"rows": 3}


def test_a_step_with_the_same_key_is_done_once(tmp_path: Path) -> None:
    calls = []

    def counting(folder: Path) -> Mapping[str, Any]:
        calls.append(folder)
        return build(folder)

    first = produce(tmp_path, Index, KEY, counting)
    second = produce(tmp_path, Index, KEY, counting)
    assert len(calls) == 1
    assert (first.reused, second.reused) == (False, True)
    assert second.model_copy(update={"reused": False}) == first


def test_another_key_is_another_artifact(tmp_path: Path) -> None:
    first = produce(tmp_path, Index, KEY, build)
    other = produce(tmp_path, Index, {"snapshot": "abd"}, build)
    assert first.digest != other.digest
    assert first.path != other.path


def test_a_step_that_fails_leaves_no_artifact_and_can_be_run_again(tmp_path: Path) -> None:
    def fails(folder: Path) -> Mapping[str, Any]:
        (folder / "half").write_text("half of it")
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError):
        produce(tmp_path, Index, KEY, fails)
    assert read_receipt(tmp_path / "indexes" / digest_of({"kind": "Index", **KEY}), Index) is None
    receipt = produce(tmp_path, Index, KEY, build)
    assert [path.name for path in sorted(receipt.path.iterdir())] == [CHECKSUMS, "data", MANIFEST]


def test_only_a_resumable_step_sees_the_files_of_a_crashed_attempt(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def fails_at_first(folder: Path) -> Mapping[str, Any]:
        seen.append([path.name for path in folder.iterdir()])
        (folder / "checkpoint").write_text("1")
        if len(seen) % 2:
            raise RuntimeError
        return {"rows": 1}

    for resumable in (True, False):
        key = {"resumable": resumable}
        with pytest.raises(RuntimeError):
            produce(tmp_path, Index, key, fails_at_first, resumable=resumable)
        produce(tmp_path, Index, key, fails_at_first, resumable=resumable)
    assert seen == [[], ["checkpoint"], [], []]


def test_a_receipt_does_not_contain_its_path(tmp_path: Path) -> None:
    receipt = produce(tmp_path / "a", Index, KEY, build)
    (tmp_path / "a").rename(tmp_path / "b")
    moved = load(tmp_path / "b", Index, receipt.digest)
    assert moved.path == tmp_path / "b" / "indexes" / receipt.digest
    assert "path" not in json.loads((moved.path / MANIFEST).read_text())


def test_a_missing_referenced_artifact_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="missing, although"):
        load(tmp_path, Index, "0" * 20)


def test_a_replaced_file_is_never_half_written(tmp_path: Path) -> None:
    path = tmp_path / "pointer.json"
    write_json(path, {"epoch": 1})
    write_json(path, {"epoch": 2})
    assert json.loads(path.read_text()) == {"epoch": 2}
    assert [file.name for file in tmp_path.iterdir()] == ["pointer.json"]


def test_a_digest_depends_on_content_and_not_on_order() -> None:
    assert digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})
    assert digest_of({System.BM25: [Split.TRAIN]}) == digest_of({"bm25": ["train"]})


def test_a_manifest_of_another_version_is_refused_with_the_next_step(tmp_path: Path) -> None:
    receipt = produce(tmp_path, Index, KEY, build)
    manifest = receipt.path / MANIFEST
    text = json.dumps({**json.loads(manifest.read_text()), "of_tomorrow": 1})
    manifest.write_text(text)
    write_checksums(receipt.path, text.encode())
    with pytest.raises(Mismatch, match=r"another version.*of_tomorrow.*NIGHTSHIFT_HOME"):
        produce(tmp_path, Index, KEY, build)
