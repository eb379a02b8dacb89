"""Digests, atomic writes, and locks: what artifacts and every other file of a home are written with."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


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
