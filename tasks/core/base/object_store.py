"""Objects in a store such as S3, by pyarrow: whole or not at all, and tried again when the network fails."""

from __future__ import annotations

import hashlib
import logging
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.base.errors import Unreachable

log = logging.getLogger("nightshift.store")

CHUNK = 1 << 22
T = TypeVar("T")


class ObjectStore:
    """A folder of an object store. Every transfer is tried `tries` times, then Unreachable is raised."""

    def __init__(self, url: str, tries: int) -> None:
        """Open `url`, such as s3://bucket/folder; credentials as AWS tools find them."""
        from pyarrow import fs

        self._files, self._root = fs.FileSystem.from_uri(url)
        self.url, self.shown, self._tries = url, url.split("?")[0], tries

    def read(self, name: str) -> bytes | None:
        """A small object; None when it is not there."""

        def once() -> bytes | None:
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as stream:
                    content: bytes = stream.read()
                    return content
            except FileNotFoundError:
                return None

        return self._patiently(once, name)

    def write(self, name: str, content: bytes) -> None:
        """Put a small object, as a whole."""

        def once() -> None:
            with self._files.open_output_stream(f"{self._root}/{name}") as stream:
                stream.write(content)

        self._patiently(once, name)

    def put(self, path: Path, name: str) -> tuple[int, str]:
        """Upload a file; its size and SHA-256."""

        def once() -> tuple[int, str]:
            with path.open("rb") as source, self._files.open_output_stream(f"{self._root}/{name}") as stream:
                return _copied(source, stream)

        return self._patiently(once, name)

    def get(self, name: str, path: Path) -> tuple[int, str]:
        """Download a file; its size and SHA-256, (-1, "") when it is not there."""

        def once() -> tuple[int, str]:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with self._files.open_input_stream(f"{self._root}/{name}") as source, path.open("wb") as file:
                    return _copied(source, file)
            except FileNotFoundError:
                return -1, ""

        return self._patiently(once, name)

    def remove(self, name: str) -> None:
        """Delete an object."""
        self._patiently(lambda: self._files.delete_file(f"{self._root}/{name}"), name)

    def probe(self) -> None:
        """Write, read and remove a small object. Raises Unreachable when that does not go, or something else comes."""
        name, content = f".probe/{uuid.uuid4().hex}", uuid.uuid4().bytes
        self.write(name, content)
        if self.read(name) != content:
            raise Unreachable(f"{self.shown}: what was written is not what is read")
        self.remove(name)

    def _patiently(self, once: Callable[[], T], name: str) -> T:
        shown = f"{self.shown}/{name}"
        for attempt in range(1, self._tries + 1):
            try:
                return once()
            except OSError as error:
                if attempt == self._tries:
                    raise Unreachable(f"{shown}: {error}") from error
                log.warning("%s: %s; trying again", shown, str(error).splitlines()[0])
                time.sleep(2 ** (attempt - 1))
        raise AssertionError


def _copied(source: Any, target: Any) -> tuple[int, str]:
    digest, size = hashlib.sha256(), 0
    while piece := source.read(CHUNK):
        digest.update(piece)
        target.write(piece)
        size += len(piece)
    return size, digest.hexdigest()
