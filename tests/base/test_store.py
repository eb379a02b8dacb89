"""Two homes share a store on a local S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs
from s3_server import CREDENTIALS, refusing_server, s3_server

from tasks.core.base import artifact_store as store
from tasks.core.base import object_store
from tasks.core.base.errors import Mismatch, Unreachable
from tasks.core.base.files import file_digest, load, produce
from tasks.core.base.receipts import Index
from tasks.core.base.sections.compute import StoreSettings

KEY = {"what": "an index"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Start an S3 server with a bucket; yield the options of its addresses."""
    with s3_server("artifacts") as options:
        yield options


@pytest.fixture
def url(server: str, tmp_path: Path) -> str:
    return f"s3://artifacts/{tmp_path.name}?{server}"


def attach(tmp_path: Path, name: str, url: str) -> Path:
    folder = tmp_path / name
    store.attach(folder, url, tries=2)
    return folder


def build(folder: Path) -> Mapping[str, Any]:
    (folder / "lucene").mkdir()
    (folder / "lucene" / "terms").write_bytes(b"terms" * 100_000)
    (folder / "nothing").write_bytes(b"")
    return {"rows": 3}


def refuse(folder: Path) -> Mapping[str, Any]:
    raise AssertionError("built again")


def objects(url: str) -> tuple[fs.FileSystem, list[str]]:
    files, root = fs.FileSystem.from_uri(url)
    entries = files.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    return files, sorted(entry.path for entry in entries if entry.type == fs.FileType.File)


def test_a_second_home_fetches_an_artifact_and_does_not_rebuild_it(url: str, tmp_path: Path) -> None:
    first = produce(attach(tmp_path, "first", url), Index, KEY, build)
    second = produce(attach(tmp_path, "second", url), Index, KEY, refuse)
    assert second.reused
    assert second.digest == first.digest
    for name in ("lucene/terms", "nothing", "manifest.json"):
        assert file_digest(second.path / name) == file_digest(first.path / name)
    assert load(attach(tmp_path, "third", url), Index, first.digest).rows == 3
    assert sorted(path.name for path in second.path.parent.iterdir() if path.is_dir()) == [first.digest]


def test_a_home_without_a_store_builds_every_artifact(url: str, tmp_path: Path) -> None:
    produce(attach(tmp_path, "first", url), Index, KEY, build)
    with pytest.raises(AssertionError, match="built again"):
        produce(attach(tmp_path, "alone", ""), Index, KEY, refuse)


def test_artifacts_finished_before_a_store_was_attached_are_uploaded_later(url: str, tmp_path: Path) -> None:
    produce(tmp_path / "first", Index, KEY, build)
    produce(attach(tmp_path, "first", url), Index, KEY, refuse)
    _, names = objects(url)
    assert len(names) == 5
    assert produce(attach(tmp_path, "second", url), Index, KEY, refuse).reused


def test_a_killed_upload_leaves_no_artifact_that_looks_finished(url: str, tmp_path: Path) -> None:
    program = f"""
import os, signal
from pathlib import Path
from tasks.core.base import object_store
from tasks.core.base import artifact_store as store
from tasks.core.base.files import produce
from tasks.core.base.receipts import Index
sent = []
def copied(source, target, copied=object_store._copy):
    if sent:
        target.write(source.read(1000))
        os.kill(os.getpid(), signal.SIGKILL)
    sent.append(copied(source, target))
    return sent[0]
object_store._copy = copied
def build(folder):
    (folder / "a").write_bytes(b"a" * 10)
    (folder / "b").write_bytes(b"b" * 20_000_000)
    return {{"rows": 2}}
home = Path({str(tmp_path / "first")!r})
store.attach(home, {url!r}, 2)
produce(home, Index, {{"what": "an index"}}, build)
"""
    environment = {**os.environ, **CREDENTIALS}
    done = subprocess.run([sys.executable, "-c", program], env=environment, cwd=Path(__file__).parents[2])
    assert done.returncode == -9
    _, names = objects(url)
    assert [name.rpartition("/")[2] for name in names] == ["a"]
    assert produce(attach(tmp_path, "second", url), Index, KEY, build).reused is False
    again = produce(tmp_path / "first", Index, KEY, refuse)  # the finished artifact is now in the store
    assert again.rows == 2


def test_a_resumed_upload_continues_in_its_folder(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = attach(tmp_path, "first", url)
    with monkeypatch.context() as patch:
        patch.setattr(object_store.ObjectStore, "write", interrupt)  # of the list, after all files
        with pytest.raises(KeyboardInterrupt):
            produce(home, Index, KEY, build)
    _, uploaded = objects(url)
    assert len(uploaded) == 4
    digest = produce(home, Index, KEY, refuse).digest
    _, names = objects(url)
    (listed,) = set(names) - set(uploaded)
    assert listed.endswith(f"/indexes/{digest}.json")
    assert [path.name for path in (home / "indexes").glob(f".{digest}.*") if path.suffix != ".lock"] == [
        f".{digest}.stored"
    ]


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("harm", ["cut", "other bytes", "deleted"])
def test_a_damaged_object_is_detected_and_not_used(url: str, tmp_path: Path, harm: str) -> None:
    first = produce(attach(tmp_path, "first", url), Index, KEY, build)
    files, names = objects(url)
    (name,) = (name for name in names if name.endswith("terms"))
    if harm == "deleted":
        files.delete_file(name)
    else:
        with files.open_output_stream(name) as stream:
            stream.write(b"terms" * 99_999 if harm == "cut" else b"tErms" * 100_000)
    with pytest.raises(Mismatch, match="missing, although"):
        load(attach(tmp_path, "second", url), Index, first.digest)
    assert not produce(attach(tmp_path, "third", url), Index, KEY, build).reused
    assert load(attach(tmp_path, "second", url), Index, first.digest).rows == 3  # uploaded again, undamaged


@pytest.mark.parametrize("harm", ["list", "artifact"])
def test_a_damaged_artifact_is_fetched_again_and_a_damaged_object_is_uploaded_again(
    url: str, tmp_path: Path, harm: str
) -> None:
    first = produce(attach(tmp_path, "first", url), Index, KEY, build)
    terms = first.path / "lucene" / "terms"
    terms.write_bytes(b"tErms" * 100_000)
    assert produce(tmp_path / "first", Index, KEY, refuse).reused  # fetched from the store
    files, names = objects(url)
    (listed,) = (name for name in names if name.endswith(f"{first.digest}.json"))
    with files.open_output_stream(listed) as stream:
        stream.write(b"{\xff" if harm == "list" else _listing(tmp_path, url, first.digest))
    assert not produce(attach(tmp_path, "second", url), Index, KEY, build).reused
    assert load(attach(tmp_path, "third", url), Index, first.digest).rows == 3


def _listing(tmp_path: Path, url: str, digest: str) -> bytes:
    """Return the list of an artifact that was damaged before its upload, as an earlier version wrote it."""
    files, names = objects(url)
    (terms,) = (name for name in names if name.endswith("terms"))
    damaged = b"tErms" * 100_000
    with files.open_output_stream(terms) as stream:
        stream.write(damaged)
    (listed,) = (name for name in names if name.endswith(f"{digest}.json"))
    with files.open_input_stream(listed) as stream:
        contents = json.loads(stream.read())
    contents["files"]["lucene/terms"]["sha256"] = hashlib.sha256(damaged).hexdigest()
    return json.dumps(contents).encode()


def test_two_homes_that_upload_the_same_artifact_do_not_mix_files(url: str, tmp_path: Path) -> None:
    for name in ("first", "second"):
        produce(tmp_path / name, Index, KEY, build)
    for name in ("first", "second"):
        produce(attach(tmp_path, name, url), Index, KEY, refuse)
    files, names = objects(url)
    (listed,) = (
        name for name in names if name.endswith(f"{produce(tmp_path / 'first', Index, KEY, refuse).digest}.json")
    )
    with files.open_input_stream(listed) as stream:
        listing = json.loads(stream.read())
    assert {name.rpartition("/")[0] for name in names if name.endswith("nothing")} == {
        f"{listed.partition('/indexes/')[0]}/{listing['files_in']}"
    }


def test_the_error_names_a_store_that_fails_after_all_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store.time, "sleep", lambda seconds: None)
    with refusing_server() as (options, requests):
        place = attach(tmp_path, "first", f"s3://artifacts/there?{options}")
        with pytest.raises(Unreachable, match=r"s3://artifacts/there/indexes"):
            produce(place, Index, KEY, build)
    assert len(requests) == 2


def test_an_address_with_a_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="without credentials"):
        StoreSettings(url="s3://me:secret@bucket/folder")
