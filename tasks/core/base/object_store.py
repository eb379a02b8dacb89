"""Reads and writes objects of a store such as S3 with pyarrow. Transfers are atomic, and retried on errors."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.base.errors import Unreachable

log = logging.getLogger("nightshift.store")

CHUNK = 1 << 22
T = TypeVar("T")


class ObjectStore:
    """A folder of an object store. Each transfer raises Unreachable after `tries` failed attempts."""

    def __init__(self, url: str, tries: int) -> None:
        """Open `url`, such as s3://bucket/folder, with credentials from the standard AWS sources."""
        from pyarrow import fs

        # Small objects are sent as a whole: an interrupted upload leaves no parts, which no listing of a bucket shows.
        whole = f"{'&' if '?' in url else '?'}allow_delayed_open=true" if url.startswith("s3://") else ""
        self._files, self._root = fs.FileSystem.from_uri(f"{url}{whole}")
        self.url, self.shown, self._tries = url, url.split("?")[0], tries

    def read(self, name: str) -> bytes | None:
        """Return the content of a small object; None if it does not exist."""

        def transfer() -> bytes | None:
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

        return self._retry(transfer, name)

    def write(self, name: str, content: bytes) -> None:
        """Write a small object atomically."""

        def transfer() -> None:
            with self._files.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)

        self._retry(transfer, name)

    def put(self, path: Path, name: str) -> tuple[int, str]:
        """Upload a file and return its size in bytes and SHA-256."""

        def transfer() -> tuple[int, str]:
            with path.open("rb") as source, self._files.open_output_stream(f"{self._root}/{name}") as stream:
                return _copy(source, stream)

        return self._retry(transfer, name)

    def get(self, name: str, path: Path) -> tuple[int, str]:
        """Download a file and return its size in bytes and SHA-256; (-1, "") if it does not exist."""

        def transfer() -> tuple[int, str]:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as source, path.open("wb") as file:
                    return _copy(source, file)
            except FileNotFoundError:
                return -1, ""

        return self._retry(transfer, name)

    def remove(self, name: str) -> None:
        """Delete an object."""
        self._retry(lambda: self._files.delete_file(f"{self._root}/{name}"), name)

    def objects(self) -> dict[str, datetime]:
        """Return the names of all objects, with the time of their last change."""
        from pyarrow import fs

        def transfer() -> dict[str, datetime]:
            selector = fs.FileSelector(self._root, recursive=True, allow_not_found=True)
            entries = self._files.get_file_info(selector)
            return {
                entry.path[len(self._root) + 1 :]: entry.mtime for entry in entries if entry.type == fs.FileType.File
            }

        return self._retry(transfer, "")

    def probe(self) -> None:
        """Write, read, and remove a small object.

        Raises:
            Unreachable: an operation failed, or the content read differs from the content written.
        """
        name, content = f".probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
        self.write(name, content)
        if self.read(name) != content:
            raise Unreachable(f"{self.shown}: the content read differs from the content written")
        self.remove(name)

    def _retry(self, transfer: Callable[[], T], name: str) -> T:
        shown = f"{self.shown}/{name}"
        for attempt in range(1, self._tries + 1):
            try:
                return transfer()
            except OSError as error:
                if attempt == self._tries:
                    raise Unreachable(f"{shown}: {error}") from error
                pause = 2 ** (attempt - 1)
                log.warning("%s: %s. Retrying in %d s", shown, str(error).splitlines()[0], pause)
                time.sleep(pause)
        raise AssertionError


def _copy(source: Any, target: Any) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while chunk := source.read(CHUNK):
        digest.update(chunk)
        target.write(chunk)
        size += len(chunk)
    return size, digest.hexdigest()
