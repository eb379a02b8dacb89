"""Where a source lies: a folder or a file, on this machine or behind any filesystem that pyarrow knows (s3://…).

find("s3://feed/2024-05-01")          credentials from the environment, as AWS tools read them
find("s3://feed?endpoint_override=http://127.0.0.1:9000")          a server of one's own
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
_MAGIC = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd"}  # first bytes -> codec, where the name has no ending
_SIDE_FILES = ("dataset_infos.json", "dataset_info.json", "dataset_dict.json", "state.json")  # of datasets folders
_HEAD = 512
_CHUNK = 2**20
_SCHEME = re.compile(r"^[A-Za-z0-9+.-]+://")


@dataclass(frozen=True)
class Stored:
    """One file of a source, as it was when it was found."""

    name: str  # relative to the source, parts joined by /
    path: str  # on its filesystem
    size: int
    changed: int  # nanoseconds since 1970

    @property
    def bare(self) -> str:
        """The name without .gz or .zst."""
        return self.name.removesuffix(self.ending)

    @property
    def ending(self) -> str:
        """.gz, .zst or nothing."""
        return next((one for one in COMPRESSED if one and self.name.endswith(one)), "")


@dataclass(frozen=True)
class Location:
    """A source's root on its filesystem."""

    shown: str  # for people: without credentials
    filesystem: Any  # a pyarrow.fs.FileSystem
    root: str
    single: bool  # the root is a file
    left_out: set[str] = field(default_factory=set, compare=False)  # names of files that are no data
    codecs: dict[str, str | None] = field(default_factory=dict, compare=False)  # of files whose names give none

    def files(self, below: str = "", *, deep: bool = False) -> list[Stored]:
        """The files in the root or in its folder `below`, by name; `deep`: in all folders under it too.

        Files that other programs leave next to data are not listed: names that begin with `.` or `_`, of files and of
        folders, and the metadata of datasets folders. `left_out` collects them.

        Raises BadInput when the folder cannot be listed.
        """
        folder = f"{self.root}/{below}".rstrip("/")
        selector = self.root if self.single else fs.FileSelector(folder, recursive=deep, allow_not_found=True)
        try:
            found = self.filesystem.get_file_info([selector] if self.single else selector)
        except (OSError, pa.ArrowException) as error:
            raise BadInput(f"{self.shown}: cannot be listed ({error}). Check its name and your permissions.") from error
        stored = [self._stored(info) for info in found if info.type == fs.FileType.File]
        if not self.single:
            self.left_out.update(file.name for file in stored if _is_no_data(file.name))
        return sorted((file for file in stored if file.name not in self.left_out), key=lambda file: file.name)

    def one_of(self, files: list[Stored], name: str) -> Stored:
        """The one file called `name`, plain or compressed. Raises BadInput when there is none, or more than one."""
        found = [file for file in files if file.bare == name]
        if not found:
            others = ", ".join(f"{name}{ending}" for ending in COMPRESSED if ending)
            raise BadInput(f"{self.shown}/{name}: not found (nor {others}). The source needs it; check [data] path.")
        self.once(found)
        return found[0]

    def once(self, files: list[Stored]) -> None:
        """Raises BadInput when a file is there in two forms."""
        known: dict[str, Stored] = {}
        for file in files:
            if (other := known.setdefault(file.bare, file)) is not file:
                raise BadInput(f"{self.where(other)} and {self.where(file)}: which of them? Keep one.")

    def where(self, file: Stored) -> str:
        """The file's address, for people."""
        return self.shown if self.single else f"{self.shown}/{file.name}"

    def digest(self, file: Stored) -> str:
        """SHA-256 of the file's bytes in hex: names its content wherever it lies, which a date or an ETag does not."""
        digest = hashlib.sha256()
        with self.reading(file), self.filesystem.open_input_stream(file.path, compression=None) as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
        return digest.hexdigest()

    @contextmanager
    def opened(self, file: Stored) -> Iterator[Any]:
        """A stream of the file's bytes, decompressed by its ending, or by its first bytes where it has none."""
        codec = COMPRESSED[file.ending] or self._codec(file)
        if codec and not file.size:
            raise OSError("empty, not even a compressed nothing")
        with self.filesystem.open_input_stream(file.path, compression=None) as stream:
            yield pa.CompressedInputStream(stream, codec) if codec else stream

    @contextmanager
    def reading(self, file: Stored, reached: Callable[[], str] = lambda: "") -> Iterator[None]:
        """Turn what goes wrong while the file is read into BadInput; `reached` says how far it was read.

        A file that changed since it was found is refused as well, for nobody knows which of its states was read.
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
        """The compression of a file that its name does not give."""
        if file.name not in self.codecs:
            head = self._head(file)
            codec = next((codec for magic, codec in _MAGIC.items() if head.startswith(magic)), None)
            self.codecs[file.name] = codec
            if codec:
                _log.info("%s: its first bytes are those of %s, so it is read as such", self.where(file), codec)
        return self.codecs[file.name]

    def _cause(self, file: Stored) -> str:
        """What a file that cannot be read looks like, as a sentence; empty when it looks like nothing known."""
        with suppress(OSError, pa.ArrowException):
            looks = guess_cause(self._head(file))
            return f"It {looks}. " if looks else ""
        return ""

    def _stored(self, info: Any) -> Stored:
        name = info.path.rpartition("/")[2] if self.single else info.path.removeprefix(self.root).lstrip("/")
        return Stored(name, info.path, info.size, info.mtime_ns)


def find(path: Path | str) -> Location:
    """The place that `[data] path` names: a local path, or an address with a scheme.

    Raises BadInput when there is nothing, or when the address cannot be understood or reached.
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
        raise BadInput(f"{shown}: no such folder or file. Set [data] path to where the source lies.")
    return Location(shown, filesystem, root, single=info.type == fs.FileType.File)


def _is_no_data(name: str) -> bool:
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
    """Without user, password and options, which may be secret."""
    scheme = _SCHEME.match(path)
    if scheme is None:
        return path
    rest = path[scheme.end() :].split("?")[0]
    return scheme.group() + rest.rpartition("@")[2].rstrip("/")


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
