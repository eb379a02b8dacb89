"""Digests, atomic writes, and locks for all files of a home."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


def digest_of(value: object) -> str:
    """Return the first 20 hex digits of the SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically and durably: after a crash the file is either old or new."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)
    sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """Write the indented JSON of `value` to `path` atomically and durably."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def sync_folder(folder: Path) -> None:
    """Sync `folder`, because a rename is durable only after its folder was synced."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_files(folder: Path) -> None:
    """Sync the content of every file below `folder` to disk."""
    for file in files_under(folder):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())


def files_under(folder: Path) -> Iterator[Path]:
    """Return all regular files below `folder`, sorted by path."""
    return (path for path in sorted(folder.rglob("*")) if path.is_file())


@contextmanager
def exclusive(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold an exclusive lock on the file `path`. The system releases it when the process ends, even if it is killed.

    Args:
        path: Lock file; created if missing.
        timeout: Seconds to wait for the lock; -1: no limit.

    Raises:
        filelock.Timeout: another process held the lock for `timeout` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path, timeout=timeout):
        yield
