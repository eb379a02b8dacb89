"""Builds, finds, and verifies artifacts, so that each step finishes exactly once.

A step is finished when its manifest exists. Files are written into a temporary folder, synced, and renamed into place.
So a reader sees a complete artifact or none, and a rerun after a crash finds the finished artifact or repeats the step.

Next to the manifest, `checksums.json` lists size and SHA-256 of every file. A process compares them when it first
reads the artifact. A damaged artifact is renamed to `.<digest>.damaged-<time>`, with a warning, and is rebuilt.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock
from pydantic import ValidationError

from tasks.core.base import artifact_store as store
from tasks.core.base.artifact_structure import check_structure
from tasks.core.base.atomic_files import (
    digest_of,
    exclusive,
    file_digest,
    files_under,
    sync_files,
    sync_folder,
    write_json,
    write_text,
)
from tasks.core.base.checksums import CHECKSUMS, MANIFEST, set_aside, verify, write_checksums
from tasks.core.base.errors import Damaged, Mismatch
from tasks.core.base.memory import Peak
from tasks.core.base.receipts import Receipt

__all__ = [
    "CHECKSUMS",
    "MANIFEST",
    "artifact_digest",
    "digest_of",
    "exclusive",
    "file_digest",
    "files_under",
    "find_artifact",
    "find_by_key",
    "load",
    "partial_folder",
    "produce",
    "read_receipt",
    "read_verified",
    "receipts_newest_first",
    "sync_files",
    "sync_folder",
    "write_json",
    "write_text",
]

log = logging.getLogger("nightshift.files")
R = TypeVar("R", bound=Receipt)


def artifact_digest(kind: type[Receipt], key: Mapping[str, object]) -> str:
    """Return the digest that names the artifact of this kind and key."""
    return digest_of({"kind": kind.__name__, **key})


def partial_folder(home: Path, kind: type[Receipt], digest: str) -> Path:
    """Return the temporary folder of an unfinished artifact."""
    return home / kind.shelf / f".{digest}.partial"


def produce(
    home: Path,
    kind: type[R],
    key: Mapping[str, object],
    build: Callable[[Path], Mapping[str, Any]],
    *,
    resumable: bool = False,
) -> R:
    """Return the artifact of `key`, and build it only if no earlier run finished it.

    If two processes need the same artifact, the second waits for the first. If the home has a store
    (tasks/core/base/artifact_store.py), the artifact is fetched from there if possible, and uploaded when built.
    The modification time of its folder is its last use. Damaged files are set aside and rebuilt.

    Args:
        key: Everything that determines the content; JSON values.
        build: Fills the given folder and returns the receipt's remaining fields.
        resumable: Pass the folder of a crashed attempt to `build` unchanged, so it can resume; else an empty folder.

    Raises:
        Mismatch: the manifest was written by another version of Nightshift.
        Unreachable: the store failed.
    """
    digest = artifact_digest(kind, key)
    shelf = home / kind.shelf
    target = shelf / digest
    if (receipt := _read_and_touch(target, kind)) is not None:
        store.keep(target)
        return receipt
    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(target)):
        if (receipt := _read_locked(target, kind) or _fetch(target, kind, _read_locked)) is not None:
            return receipt
        aside = partial_folder(home, kind, digest)
        if not resumable:
            shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(exist_ok=True)
        start = time.perf_counter()
        with Peak() as peak:
            fields = _run_build(aside, build)
        measured = {"seconds": time.perf_counter() - start, "peak_mb": peak.mb}
        receipt = kind(**{"digest": digest, "path": target, **measured, **fields})
        _seal(aside, receipt)
        aside.rename(target)
        sync_folder(shelf)
        store.keep(target)
    return receipt


def _run_build(folder: Path, build: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Run `build`. If it fails on the files of a crashed attempt, run it again in an empty folder."""
    resuming = any(folder.iterdir())
    try:
        return build(folder)
    except (Damaged, ValueError, LookupError, TypeError, EOFError) as error:
        if not resuming or not folder.exists():
            raise
        set_aside(folder, f"{folder}: cannot be resumed ({error})")
        folder.mkdir()
    return build(folder)


def read_receipt(target: Path, kind: type[R]) -> R | None:
    """Read the receipt of the artifact in `target` without checking its files.

    Returns None if the manifest is missing or unreadable.

    Raises:
        Mismatch: the manifest was written by another version of Nightshift.
    """
    try:
        return _receipt(target, kind)
    except Damaged as error:
        if (target / MANIFEST).exists():
            log.warning("%s. The artifact is ignored", error)
        return None


def _receipt(target: Path, kind: type[R]) -> R:
    try:
        fields = {**json.loads((target / MANIFEST).read_bytes()), "path": target, "reused": True}
    except FileNotFoundError as error:
        raise Damaged(f"{target / MANIFEST}: missing") from error
    except (ValueError, TypeError) as error:
        raise Damaged(f"{target / MANIFEST}: not a JSON object ({error})") from error
    try:
        return kind(**fields)
    except ValidationError as error:
        names = ", ".join(".".join(map(str, fault["loc"])) for fault in error.errors())
        raise Mismatch(
            f"{target / MANIFEST}: written by another version of Nightshift ({names}). "
            "Use that version with this home, or set NIGHTSHIFT_HOME to a new folder."
        ) from error


def read_verified(target: Path, kind: type[R]) -> R | None:
    """Read the receipt of the artifact in `target` after comparing all of its files with their checksums.

    A process hashes an unchanged file only once. An artifact of an earlier version has no checksums; they are recorded
    now if its structure is valid.

    Returns:
        None if the artifact is missing, or was damaged and is now set aside.

    Raises:
        Mismatch: the manifest was written by another version of Nightshift.
        Damaged: the artifact is damaged and cannot be set aside, because the home is read-only.
    """
    if not target.is_dir():
        return None
    try:
        if verify(target):
            return _receipt(target, kind)
    except Damaged:
        pass
    try:
        lock = FileLock(_lock(target)).acquire()
    except OSError:  # the home is read-only
        return _read_locked(target, kind)
    with lock:
        return _read_locked(target, kind)


def _read_locked(target: Path, kind: type[R]) -> R | None:
    """Like `read_verified`, for a caller that holds the artifact's lock."""
    if not target.is_dir():
        return None
    try:
        receipt, sealed = _check_files(target, kind)
    except Damaged as error:
        set_aside(target, error)
        return None
    if not sealed:
        times = target.stat()
        with suppress(OSError):  # the home is read-only
            write_checksums(target, (target / MANIFEST).read_bytes())
            os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
            log.debug("%s: checksums recorded", target)
    return receipt


def _check_files(target: Path, kind: type[R]) -> tuple[R, bool]:
    """Return the receipt, and whether checksums exist; without them, check the structure."""
    sealed = verify(target)
    receipt = _receipt(target, kind)
    if not sealed:
        check_structure(receipt)
    return receipt, sealed


def find_artifact(home: Path, kind: type[R], digest: str) -> R | None:
    """Return the receipt of a finished, undamaged artifact of this home or its store; None if neither has it.

    This updates the artifact's time of last use, and may download it.
    """
    target = home / kind.shelf / digest
    return _read_and_touch(target, kind) or _fetch(target, kind, read_verified)


def _fetch(target: Path, kind: type[R], read: Callable[[Path, type[R]], R | None]) -> R | None:
    if not store.fetch(target):
        return None
    if (receipt := read(target, kind)) is None:
        store.discard(target)
    return receipt


def _read_and_touch(target: Path, kind: type[R]) -> R | None:
    """Like `read_verified`, and update the time of last use for `release/retention.py` if the home is writable."""
    with suppress(OSError):
        os.utime(target)
    return read_verified(target, kind)


def _lock(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def find_by_key(home: Path, kind: type[R], key: Mapping[str, object]) -> R | None:
    """Return the receipt of the artifact of `key`, as `find_artifact` does; None if it is not finished."""
    return find_artifact(home, kind, artifact_digest(kind, key))


def receipts_newest_first(home: Path, kind: type[R]) -> list[R]:
    """Return the receipts of a kind, newest first. Call `read_verified` before you read an artifact's files."""
    dated: list[tuple[int, R]] = []
    for manifest in (home / kind.shelf).glob(f"[!.]*/{MANIFEST}"):
        receipt = read_receipt(manifest.parent, kind)
        if receipt is not None:
            dated.append((manifest.stat().st_mtime_ns, receipt))
    dated.sort(key=lambda pair: pair[0], reverse=True)
    return [receipt for _, receipt in dated]


def load(home: Path, kind: type[R], digest: str) -> R:
    """Return the receipt of an artifact that must be finished and undamaged.

    Raises:
        Mismatch: the artifact is missing, although another artifact references it.
        Damaged: the artifact was damaged and is set aside.
    """
    receipt = find_artifact(home, kind, digest)
    if receipt is None:
        target = home / kind.shelf / digest
        if aside := max(target.parent.glob(f".{digest}.damaged-*"), default=None):
            raise Damaged(
                f"{target}: damaged, set aside as {aside.name}. Restore it from a backup, run a night to "
                "rebuild it if possible, or serve an older release with nightshift rollback."
            )
        raise Mismatch(
            f"{target}: missing, although another artifact references it. Was it removed manually, or after keep_days?"
        )
    return receipt


def _seal(folder: Path, receipt: Receipt) -> None:
    sync_files(folder)
    fields = receipt.model_dump(mode="json", exclude={"path", "reused"})
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    write_checksums(folder, text.encode())
    write_text(folder / MANIFEST, text)
