"""Digests, atomic writes, and the one mechanism by which a step is finished exactly once.

A step is finished when its manifest exists. Everything is written into a sibling of the target,
synced, and renamed into place; so a reader sees a whole artifact or none, and a rerun after a
crash at any line either finds the finished artifact or starts that step again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from tasks.core import store
from tasks.core.errors import Mismatch
from tasks.core.memory import Peak
from tasks.core.receipts import Receipt

MANIFEST = "manifest.json"
R = TypeVar("R", bound=Receipt)


def digest_of(value: object) -> str:
    """Name a JSON-able value: the first 20 hex digits of the SHA-256 of its canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """Name a file by its bytes: the whole SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Replace `path` by a file holding `text`, in one step that survives a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Replace `path` by the indented JSON of `value`, in one step that survives a crash."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is not, until its folder is synced)."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def artifact_digest(kind: type[Receipt], key: Mapping[str, object]) -> str:
    """The name of the artifact of this kind that `key` names."""
    return digest_of({"kind": kind.__name__, **key})


def unfinished(home: Path, kind: type[Receipt], digest: str) -> Path:
    """Where the artifact of this name lies until it is finished."""
    return home / kind.shelf / f".{digest}.partial"


def produce(
    home: Path,
    kind: type[R],
    key: Mapping[str, object],
    build: Callable[[Path], Mapping[str, Any]],
    *,
    resumable: bool = False,
) -> R:
    """Return the artifact that `key` names, building it only if no earlier run finished it.

    `build(folder)` fills an empty folder and returns the receipt's own fields. With `resumable`
    the folder of a crashed try is handed over as it was left, so that `build` can go on in it.
    Two processes that want the same artifact wait for each other. The receipt is written into
    the folder as its manifest, last, before the folder gets its final name. Where the home has a
    store (tasks/core/store.py), it is fetched from there if it can be, and kept there when it is made.
    The time of an artifact's folder says when it was used last.
    """
    digest = artifact_digest(kind, key)
    shelf = home / kind.shelf
    target = shelf / digest
    if (receipt := _used(target, kind)) is not None:
        store.keep(target)
        return receipt
    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(shelf / f".{digest}.lock"):
        if (receipt := held(home, kind, digest)) is not None:
            return receipt
        aside = unfinished(home, kind, digest)
        if not resumable:
            shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(exist_ok=True)
        start = time.perf_counter()
        with Peak() as peak:
            fields = build(aside)
        measured = {"seconds": time.perf_counter() - start, "peak_mb": peak.mb}
        receipt = kind(**{"digest": digest, "path": target, **measured, **fields})
        _seal(aside, receipt)
        aside.rename(target)
        sync_folder(shelf)
        store.keep(target)
    return receipt


def finished(target: Path, kind: type[R]) -> R | None:
    """Read the receipt of the artifact in `target`; None when its manifest is not there.

    Raises:
        Mismatch: the manifest is that of another version of Nightshift.
    """
    try:
        text = (target / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    try:
        return kind(**{**json.loads(text), "path": target, "reused": True})
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise Mismatch(
            f"{target / MANIFEST}: written by another version of Nightshift ({fields}). "
            "Go on with that version here, or begin a new home: NIGHTSHIFT_HOME."
        ) from error


def held(home: Path, kind: type[R], digest: str) -> R | None:
    """The receipt of a finished artifact of this home or of its store, which is then fetched; None: neither has it."""
    target = home / kind.shelf / digest
    receipt = _used(target, kind)
    return finished(target, kind) if receipt is None and store.fetch(target) else receipt


def _used(target: Path, kind: type[R]) -> R | None:
    """As `finished`, noting the use, for `release/retention.py`, where the home can be written."""
    with suppress(OSError):
        os.utime(target)
    return finished(target, kind)


def look_up(home: Path, kind: type[R], key: Mapping[str, object]) -> R | None:
    """The receipt of the artifact that `key` names; None when it is not finished."""
    return held(home, kind, artifact_digest(kind, key))


def newest_first(home: Path, kind: type[R]) -> list[R]:
    """The receipts of all finished artifacts of a kind."""
    found: list[tuple[int, R]] = []
    for manifest in (home / kind.shelf).glob(f"[!.]*/{MANIFEST}"):
        receipt = finished(manifest.parent, kind)
        if receipt is not None:
            found.append((manifest.stat().st_mtime_ns, receipt))
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [receipt for _, receipt in found]


def load(home: Path, kind: type[R], digest: str) -> R:
    """The receipt of a finished artifact.

    Raises:
        Mismatch: it is not there, though something names it.
    """
    receipt = held(home, kind, digest)
    if receipt is None:
        raise Mismatch(
            f"{home / kind.shelf / digest}: named by another artifact, but not there. Was it removed by hand, or after "
            "keep_days?"
        )
    return receipt


def _seal(folder: Path, receipt: Receipt) -> None:
    sync_files(folder)
    fields = receipt.model_dump(mode="json", exclude={"path", "reused"})
    write_json(folder / MANIFEST, fields)


def sync_files(folder: Path) -> None:
    """Make the bytes of every file below `folder` durable."""
    for file in files_under(folder):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def files_under(folder: Path) -> Iterator[Path]:
    """Every regular file below `folder`, in name order."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@contextmanager
def exclusive(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock file `path`; it falls with its process, so a killed night leaves nothing locked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout):
        yield
