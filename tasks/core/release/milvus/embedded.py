"""Releases in milvus-lite: a directory of its own for each generation, and a pointer file replaced atomically.

A builder writes only into its own new directory; readers open private hard-link clones. So nobody waits for a lock,
a crash can hurt only a directory that no pointer names, and published bytes are never written again. Checksums of all
files are written last, and compared whenever a directory is opened.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from pydantic import ValidationError

from tasks.core.base.errors import Damaged, Mismatch, NightshiftError
from tasks.core.base.files import sync_files, sync_folder, write_json
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.release.damage import (
    NEXT,
    Checksums,
    check_files,
    compute_checksums,
    read_checksums,
    set_aside,
    write_checksums,
)
from tasks.core.release.milvus.collection import (
    METRIC,
    CollectionReader,
    connect,
    create,
    fill,
    index_and_load,
    readable,
)
from tasks.core.release.publisher import Identity, Pointer
from tasks.core.release.stored import verify_contents

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

IMMUTABLE = {".parquet", ".idx"}  # milvus-lite writes these once; a clone may share them


class EmbeddedMilvus:
    """The `Publisher` for one machine: `home/milvus/<collection>.db`, `home/serving.json`, `home/readers/`."""

    def __init__(self, home: Path, settings: MilvusSettings | None = None) -> None:
        self._home, self._pointer = home, home / "serving.json"
        self._folder, self._readers = home / "milvus", home / "readers"
        self._settings = settings or MilvusSettings()

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch]) -> None:
        """Make a generation's directory; see `Publisher.build`. Raises NightshiftError when there is one."""
        path = self._path(identity.collection)
        if path.exists():
            raise NightshiftError(f"{path}: exists already; a collection's name is never used twice")
        path.parent.mkdir(parents=True, exist_ok=True)
        with _server(path) as client, readable(str(path)):
            create(client, identity)
            fill(client, identity, batches)
            index_and_load(client, identity)
        sync_files(path)
        write_checksums(path, compute_checksums(path))
        sync_folder(path.parent)
        log.debug("%s: closed", identity.collection)

    def open(self, collection: str) -> CollectionReader:
        """Open a private clone of a generation's directory, whose bytes are verified first; see `Publisher.open`.

        Raises NightshiftError when it is gone, Damaged when a file is not what its checksum says.
        """
        source = self._path(collection)
        if not source.is_dir():
            raise NightshiftError(f"{source}: not there; this release's collection was pruned or removed")
        self.tidy()
        folder = self._readers / uuid.uuid4().hex
        lock = FileLock(folder.with_suffix(".lock"))
        self._readers.mkdir(parents=True, exist_ok=True)
        lock.acquire()

        def give_back() -> None:
            _release(clone)
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

        clone = folder / source.name
        try:
            _clone(source, clone)
            recorded = read_checksums(clone, source)
            if recorded is not None:
                check_files(clone, recorded, source)  # before milvus-lite reads what may be anything
            checksums = compute_checksums(clone) if recorded is None else recorded
            reader = self._reader(source, clone, checksums, give_back)
        except (Mismatch, Damaged):
            give_back()
            raise
        except Exception as error:  # a damaged directory fails in any of milvus-lite's ways
            give_back()
            raise NightshiftError(f"{source}: does not load ({type(error).__name__}: {error}). {NEXT}") from error
        if recorded is None:
            self._record(source, reader, checksums)
        return reader

    def _reader(
        self, source: Path, clone: Path, checksums: Checksums, give_back: Callable[[], None]
    ) -> CollectionReader:
        """A reader of a clone. It verifies the files that are shared with all clones: milvus-lite may write others."""
        shared = {name: checksum for name, checksum in checksums.items() if Path(name).suffix in IMMUTABLE}
        return CollectionReader(
            connect(str(clone)), source.stem, self._settings, give_back, partial(check_files, clone, shared, source)
        )

    def _record(self, source: Path, reader: CollectionReader, checksums: Checksums) -> None:
        """Record the checksums of a generation of an earlier version, once its contents are verified."""
        try:
            verified = verify_contents(self._home, reader, self._settings.min_recall)
        except BaseException:
            reader.close()
            raise
        if not verified:
            log.warning("%s: has no checksums, and was opened unverified", source)
            return
        try:
            write_checksums(source, checksums)
        except OSError as error:
            log.warning("%s: verified, but its checksums cannot be written (%s)", source, error)
        else:
            log.info("%s: had no checksums; verified against the stored vectors, checksums recorded", source)

    def identity(self, collection: str) -> Identity:
        """Who a generation is, as its clone says."""
        with closing(self.open(collection)) as reader:
            return reader.identity

    def flip(self, pointer: Pointer) -> None:
        """Replace the pointer file."""
        write_json(self._pointer, pointer.model_dump())

    def serving(self) -> Pointer | None:
        """Read the pointer file. Raises Damaged when it is no pointer."""
        try:
            return Pointer(**json.loads(self._pointer.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, ValidationError) as error:
            raise Damaged(
                f"{self._pointer}: not a pointer to a release; `nightshift releases` makes it again from the ledger"
            ) from error

    def set_pointer_aside(self, reason: object) -> None:
        """Rename the pointer file."""
        set_aside(self._pointer, reason)

    def unload(self, collection: str) -> None:
        """Only readers have it in memory, each its own clone."""

    def drop(self, collection: str) -> None:
        """Remove a generation's directory; readers that hold a clone go on. Raises NightshiftError if it serves."""
        pointer = self.serving()
        if pointer is not None and pointer.collection == collection:
            raise NightshiftError(f"{collection} is serving; it cannot be removed")
        # Renamed first, so that a half-removed directory never looks like a generation.
        doomed = self._folder / f".{collection}.dropped"
        with suppress(FileNotFoundError):
            self._path(collection).rename(doomed)
        self.tidy()

    def collections(self) -> set[str]:
        """Every generation on disk, whole or half built."""
        return {path.stem for path in self._folder.glob("*.db")}

    def tidy(self) -> None:
        """Remove what readers of dead processes and unfinished drops left."""
        for folder in self._folder.glob(".*.dropped"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self._readers.glob("*.lock"):
            with suppress(Timeout, FileNotFoundError), FileLock(file, timeout=0):
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)

    def _path(self, collection: str) -> Path:
        return self._folder / f"{collection}.db"


def probe(home: Path) -> None:
    """Build, reopen and search a collection of two rows below `home`. Raises NightshiftError when that fails here."""
    names = {name: name for name in ("release", "fingerprint", "encoder", "embeddings", "snapshot", "digest")}
    identity = Identity(
        collection="probe", dimension=2, metric=METRIC, index="FLAT", index_params="{}", rows=2, **names
    )
    strings = {name: ["a", "b"] for name in ("passage_id", "title", "text", "text_hash")}
    vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    batch = pa.RecordBatch.from_pydict({"row": [0, 1], **strings, "whole": [True, True], "vector": vectors})
    milvus = EmbeddedMilvus(home)
    milvus.build(identity, [batch])
    with closing(milvus.open("probe")) as reader:
        best = reader.search(np.array([[0.0, 1.0]], np.float32), 1)[0][0].passage_id
        if (reader.count(), best) != (2, "b"):
            raise NightshiftError(f"milvus-lite counted {reader.count()} rows of 2 and found {best!r} instead of 'b'")


def _clone(source: Path, target: Path) -> None:
    """Copy a directory, sharing its large immutable files; never the lock, which follows the file."""
    for folder, _, names in os.walk(source, onerror=_raise):
        there = target / Path(folder).relative_to(source)
        there.mkdir(parents=True)
        for name in names:
            file = Path(folder) / name
            if file.suffix in IMMUTABLE:
                _link(file, there / name)
            else:
                shutil.copyfile(file, there / name)


def _raise(error: OSError) -> None:
    raise error  # os.walk would pass over a folder that is being dropped


def _link(file: Path, target: Path) -> None:
    try:
        target.hardlink_to(file)
    except OSError:  # a file system without hard links
        shutil.copyfile(file, target)


@contextmanager
def _server(path: Path) -> Iterator[MilvusClient]:
    """A client of the embedded server on `path`, and the end of that server: closing the client leaves it locked."""
    client = connect(str(path))
    try:
        yield client
    finally:
        client.close()
        _release(path)


def _release(path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(path))
