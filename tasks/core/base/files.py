"""Digests, atomic writes, and the one mechanism by which a step is finished exactly once.

A step is finished when its manifest exists. Everything is written into a sibling of the target,
synced, and renamed into place; so a reader sees a whole artifact or none, and a rerun after a
crash at any line either finds the finished artifact or starts that step again.

Next to the manifest, `checksums.json` lists size and SHA-256 of every file. A process compares them when it first
reads the artifact. A damaged artifact is renamed to `.<digest>.damaged-<time>`, with a warning, and is made again.
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
    """The name of the artifact of this kind that `key` names."""
    return digest_of({"kind": kind.__name__, **key})


def partial_folder(home: Path, kind: type[Receipt], digest: str) -> Path:
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
    store (tasks/core/base/artifact_store.py), it is fetched from there if it can be, and kept there when it is made.
    The time of an artifact's folder says when it was used last. A damaged artifact, or damaged files that a crashed
    try left, are set aside and made again.
    """
    digest = artifact_digest(kind, key)
    shelf = home / kind.shelf
    target = shelf / digest
    if (receipt := _used(target, kind)) is not None:
        store.keep(target)
        return receipt
    shelf.mkdir(parents=True, exist_ok=True)
    with FileLock(_lock(target)):
        if (receipt := _settled(target, kind) or _fetched(target, kind, _settled)) is not None:
            return receipt
        aside = partial_folder(home, kind, digest)
        if not resumable:
            shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir(exist_ok=True)
        start = time.perf_counter()
        with Peak() as peak:
            fields = _built(aside, build)
        measured = {"seconds": time.perf_counter() - start, "peak_mb": peak.mb}
        receipt = kind(**{"digest": digest, "path": target, **measured, **fields})
        _seal(aside, receipt)
        aside.rename(target)
        sync_folder(shelf)
        store.keep(target)
    return receipt


def _built(folder: Path, build: Callable[[Path], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Run `build`; where it cannot read what a crashed try left in `folder`, run it again in an empty one."""
    resumes = any(folder.iterdir())
    try:
        return build(folder)
    except (Damaged, ValueError, LookupError, TypeError, EOFError) as error:
        if not resumes or not folder.exists():
            raise
        set_aside(folder, f"{folder}: cannot be resumed ({error})")
        folder.mkdir()
    return build(folder)


def read_receipt(target: Path, kind: type[R]) -> R | None:
    """Read the receipt of the artifact in `target`, and nothing else of it; None when its manifest is not readable.

    Raises:
        Mismatch: the manifest is that of another version of Nightshift.
    """
    try:
        return _receipt(target, kind)
    except Damaged as error:
        if (target / MANIFEST).exists():
            log.warning("%s: treated as not there", error)
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
        names = ", ".join(".".join(map(str, one["loc"])) for one in error.errors())
        raise Mismatch(
            f"{target / MANIFEST}: written by another version of Nightshift ({names}). "
            "Go on with that version here, or begin a new home: NIGHTSHIFT_HOME."
        ) from error


def read_verified(target: Path, kind: type[R]) -> R | None:
    """Read the receipt of the artifact in `target` after comparing all of its files with their checksums.

    A process reads an unchanged file once for it. None: there is no such artifact, or it was damaged and is now set
    aside. An artifact of an earlier version, without checksums, gets them now if its structure is right.

    Raises:
        Mismatch: the manifest is that of another version of Nightshift.
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
        return _settled(target, kind)
    with lock:
        return _settled(target, kind)


def _settled(target: Path, kind: type[R]) -> R | None:
    """`read_verified`, for a caller that holds the artifact's lock."""
    if not target.is_dir():
        return None
    try:
        receipt, sealed = _checked(target, kind)
    except Damaged as error:
        set_aside(target, error)
        return None
    if not sealed:
        used = target.stat()
        with suppress(OSError):  # the home is read-only
            write_checksums(target, (target / MANIFEST).read_bytes())
            os.utime(target, ns=(used.st_atime_ns, used.st_mtime_ns))
            log.debug("%s: checksums recorded", target)
    return receipt


def _checked(target: Path, kind: type[R]) -> tuple[R, bool]:
    """The receipt, and whether checksums vouch for all files; without them the structure does."""
    sealed = verify(target)
    receipt = _receipt(target, kind)
    if not sealed:
        check_structure(receipt)
    return receipt, sealed


def find_artifact(home: Path, kind: type[R], digest: str) -> R | None:
    """The receipt of a finished, undamaged artifact of this home or of its store; None: neither has it."""
    target = home / kind.shelf / digest
    return _used(target, kind) or _fetched(target, kind, read_verified)


def _fetched(target: Path, kind: type[R], read: Callable[[Path, type[R]], R | None]) -> R | None:
    if not store.fetch(target):
        return None
    if (receipt := read(target, kind)) is None:
        store.discard(target)
    return receipt


def _used(target: Path, kind: type[R]) -> R | None:
    """As `read_verified`, noting the use, for `release/retention.py`, where the home can be written."""
    with suppress(OSError):
        os.utime(target)
    return read_verified(target, kind)


def _lock(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def find_by_key(home: Path, kind: type[R], key: Mapping[str, object]) -> R | None:
    """The receipt of the artifact that `key` names; None when it is not finished."""
    return find_artifact(home, kind, artifact_digest(kind, key))


def receipts_newest_first(home: Path, kind: type[R]) -> list[R]:
    """The receipts of all finished artifacts of a kind, newest first; `read_verified` those whose files you read."""
    found: list[tuple[int, R]] = []
    for manifest in (home / kind.shelf).glob(f"[!.]*/{MANIFEST}"):
        receipt = read_receipt(manifest.parent, kind)
        if receipt is not None:
            found.append((manifest.stat().st_mtime_ns, receipt))
    found.sort(key=lambda pair: pair[0], reverse=True)
    return [receipt for _, receipt in found]


def load(home: Path, kind: type[R], digest: str) -> R:
    """The receipt of a finished, undamaged artifact.

    Raises:
        Mismatch: it is not there, though something names it.
        Damaged: it was damaged, and is set aside.
    """
    receipt = find_artifact(home, kind, digest)
    if receipt is None:
        target = home / kind.shelf / digest
        if aside := max(target.parent.glob(f".{digest}.damaged-*"), default=None):
            raise Damaged(
                f"{target}: damaged, set aside as {aside.name}. Restore it from a backup, run a night, which makes "
                "again what it can, or serve an older release: nightshift rollback"
            )
        raise Mismatch(
            f"{target}: named by another artifact, but not there. Was it removed manually, or after keep_days?"
        )
    return receipt


def _seal(folder: Path, receipt: Receipt) -> None:
    sync_files(folder)
    fields = receipt.model_dump(mode="json", exclude={"path", "reused"})
    text = json.dumps(fields, indent=2, ensure_ascii=False) + "\n"
    write_checksums(folder, text.encode())
    write_text(folder / MANIFEST, text)
