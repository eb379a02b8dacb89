"""Locates a source: a folder or a file, local or on any filesystem that pyarrow supports (s3://…).

find("s3://feed/2024-05-01")          credentials come from the environment, as for AWS tools
find("s3://feed?endpoint_override=http://127.0.0.1:9000")          another S3 server
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from tasks.core.base.errors import BadInput
from tasks.core.sources.first_fault import guess_cause

_log = logging.getLogger("nightshift.ingest")
COMPRESSED = {"": None, ".gz": "gzip", ".zst": "zstd"}  # ending -> codec
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # first bytes -> codec, for names without an ending
_SIDE_FILES = (
    "dataset_infos.json",
    "dataset_info.json",
    "dataset_dict.json",
    "state.json",
)  # in folders of Hugging Face datasets
_HEAD = 512
_CHUNK = 2**20
_SCHEME = re.compile(r"^[A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Stored:
    """A file of a source, with its size and time when it was listed."""

    name: str  # relative to the source, parts joined by /
    path: str  # on its filesystem
    size: int
    changed: int  # modification time, nanoseconds since 1970

    @property
    def bare(self) -> str:
        """Return the name without .gz or .zst."""
        return self.name.removesuffix(self.ending)

    @property
    def ending(self) -> str:
        """Return .gz, .zst, or an empty text."""
        return next((ending for ending in COMPRESSED if ending and self.name.endswith(ending)), "")


@dataclass(frozen=True)
class Location:
    """The root of a source on its filesystem."""

    shown: str  # shown to users, without credentials
    filesystem: Any  # a pyarrow.fs.FileSystem
    root: str
    single: bool  # the root is a file
    left_out: set[str] = field(default_factory=set, compare=False)  # names of files that are not data
    codecs: dict[str, str | None] = field(default_factory=dict, compare=False)  # of files without an ending

    def files(self, below: str = "", *, deep: bool = False) -> list[Stored]:
        """List the files in the root or in its folder `below`, by name; with `deep`, include all subfolders.

        Files that other programs leave next to data are collected in `left_out` instead: files and folders whose names
        begin with `.` or `_`, and the metadata of Hugging Face datasets.

        Raises BadInput when the folder cannot be listed.
        """
        folder = f"{self.root}/{below}".rstrip("/")
        selector = self.root if self.single else fs.FileSelector(folder, recursive=deep, allow_not_found=True)
        try:
            infos = self.filesystem.get_file_info([selector] if self.single else selector)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{self.shown}: cannot be listed ({error}). Check its name and your permissions.") from error
        stored = [self._stored(info) for info in infos if info.type == fs.FileType.File]
        if not self.single:
            self.left_out.update(file.name for file in stored if _is_not_data(file.name))
        return sorted((file for file in stored if file.name not in self.left_out), key=lambda file: file.name)

    def find_file(self, files: list[Stored], name: str) -> Stored:
        """Return the file called `name`, plain or compressed. Raises BadInput when there is none, or more than one."""
        matches = [file for file in files if file.bare == name]
        if not matches:
            alternatives = ", ".join(f"{name}{ending}" for ending in COMPRESSED if ending)
            raise BadInput(
                f"{self.shown}/{name}: not found (nor {alternatives}). The source needs it; check [data] path."
            )
        self.refuse_duplicates(matches)
        return matches[0]

    def refuse_duplicates(self, files: list[Stored]) -> None:
        """Raise BadInput when a file exists both plain and compressed."""
        known: dict[str, Stored] = {}
        for file in files:
            if (other := known.setdefault(file.bare, file)) is not file:
                raise BadInput(f"{self.where(other)} and {self.where(file)}: both exist. Keep one of them.")

    def where(self, file: Stored) -> str:
        """Return the address of the file, for messages."""
        return self.shown if self.single else f"{self.shown}/{file.name}"

    def digest(self, file: Stored) -> str:
        """Return the SHA-256 of the file in hex. Unlike a date or an ETag, it depends only on the content."""
        digest = hashlib.sha256()
        with self.reading(file), self.filesystem.open_input_stream(file.path, compression=None) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def opened(self, file: Stored) -> Iterator[Any]:
        """Open the file as a stream of bytes, decompressed by its ending or, without one, by its first bytes."""
        codec = COMPRESSED[file.ending] or self._codec(file)
        if codec and not file.size:
            raise OSError("empty, so not a compressed file")
        with self.filesystem.open_input_stream(file.path, compression=None) as stream:
            yield pa.CompressedInputStream(stream, codec) if codec else stream

    @contextmanager
    def reading(self, file: Stored, reached: Callable[[], str] = lambda: "") -> Iterator[None]:
        """Convert read errors to BadInput. `reached` returns how far the file was read, for the message.

        A file that changed since it was listed is also refused: the rows could come from either version.
        """
        try:
            yield
            (now,) = self.filesystem.get_file_info([file.path])
        except (OSError, EOFError, UnicodeDecodeError, pa.ArrowException) as error:
            raise BadInput(
                f"{self.where(file)}: cannot be read to its end{reached()} ({_brief(error)}). {self._cause(file)}An "
                "unknown number of rows is missing, so nothing of this source is used. Copy it again, or check its "
                "permissions."
            ) from error
        if (now.size, now.mtime_ns) != (file.size, file.changed):
            raise BadInput(f"{self.where(file)}: changed while it was read. Run again when its writer has finished.")

    def _head(self, file: Stored) -> bytes:
        with self.filesystem.open_input_stream(file.path, compression=None) as stream:
            head: bytes = stream.read(_HEAD)
        return head

    def _codec(self, file: Stored) -> str | None:
        """Return the compression of a file without an ending, from its first bytes."""
        if file.name not in self.codecs:
            head = self._head(file)
            codec = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
            self.codecs[file.name] = codec
            if codec:
                _log.info("%s: read as %s, because of its first bytes", self.where(file), codec)
        return self.codecs[file.name]

    def _cause(self, file: Stored) -> str:
        """Return a sentence about what an unreadable file looks like; empty when unknown."""
        with suppress(OSError, pa.ArrowException):
            guess = guess_cause(self._head(file))
            ending = guess.rpartition(" ")[2]  # of the advice to rename the file, which may have this name already
            return f"It {guess}. " if guess and not file.name.endswith(ending) else ""
        return ""

    def _stored(self, info: Any) -> Stored:
        name = info.path.rpartition("/")[2] if self.single else info.path.removeprefix(self.root).lstrip("/")
        return Stored(name, info.path, info.size, info.mtime_ns)


def find(path: Path | str) -> Location:
    """Locate the source that `[data] path` names: a local path, or an address with a scheme.

    Raises BadInput when it does not exist, or when the address is invalid or cannot be reached.
    """
    shown = _shown(str(path))
    try:
        filesystem, root = _filesystem(path)
        info = filesystem.get_file_info(root)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise BadInput(
            f"{shown}: cannot be opened ({_brief(error)}). [data] path takes a folder or an address such as "
            "s3://bucket/folder; credentials come from the environment."
        ) from error
    if info.type == fs.FileType.NotFound:
        raise BadInput(f"{shown}: no such folder or file. Set [data] path to the folder or file of the source.")
    return Location(shown, filesystem, root, single=info.type == fs.FileType.File)


def _is_not_data(name: str) -> bool:
    parts = name.split("/")
    return any(part.startswith((".", "_")) for part in parts) or parts[-1] in _SIDE_FILES


def _filesystem(path: Path | str) -> tuple[Any, str]:
    if isinstance(path, Path) or not _SCHEME.match(path):
        return fs.LocalFileSystem(), str(path).rstrip("/") or "/"
    filesystem, root = fs.FileSystem.from_uri(path)
    if not root.strip("/"):
        raise ValueError("no bucket or folder is named")
    return filesystem, root.rstrip("/")


def _shown(path: str) -> str:
    """Return the address without user, password, and options, which may be secret."""
    scheme = _SCHEME.match(path)
    if scheme is None:
        return path
    rest = path[scheme.end() :].split("?")[0]
    return scheme.group() + rest.rpartition("@")[2].rstrip("/")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
