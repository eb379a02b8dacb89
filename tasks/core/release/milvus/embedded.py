"""Releases in milvus-lite: one directory for each generation, and a pointer file that is replaced atomically.

A build writes only to its new directory; readers open private hard-link clones. So readers never wait for a lock, a
crash damages only a directory that the pointer does not name, and published files are never changed. Checksums of all
files are written last and verified whenever a directory is opened.
"""

from __future__ import annotations

import json
import logging
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from pydantic import ValidationError

from tasks.core.base.checksums import CHECKSUMS, Checksums, read_checksums, record_checksums, set_aside
from tasks.core.base.errors import Damaged, Mismatch, NightshiftError
from tasks.core.base.files import sync_files, sync_folder, write_json
from tasks.core.base.sections.release import MilvusSettings
from tasks.core.embedding.stored_shards import matrix
from tasks.core.release.damage import NEXT, check_files, compute_checksums, naming
from tasks.core.release.delta import Delta, NotCopied
from tasks.core.release.milvus.collection import (
    METRIC,
    CollectionReader,
    connect,
    convert_errors,
    create,
    fill,
    index_and_load,
    read_identity,
)
from tasks.core.release.milvus.copied import apply_delta, check_copyable, plan_slots, rename
from tasks.core.release.milvus.generation_files import IMMUTABLE, clone_generation, stored_identity
from tasks.core.release.milvus.slots import FILE as SLOTS
from tasks.core.release.milvus.slots import Slots, read_slots
from tasks.core.release.publisher import Identity, Pointer
from tasks.core.release.stored import verify_contents

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

VECTORS = "vectors.f32"  # all vectors by row, next to the files of milvus-lite


class EmbeddedMilvus:
    """The `Publisher` for one machine: `home/milvus/<collection>.db`, `home/serving.json`, `home/readers/`."""

    copies = True

    def __init__(self, home: Path, settings: MilvusSettings | None = None) -> None:
        self._home, self._pointer = home, home / "serving.json"
        self._folder, self._readers = home / "milvus", home / "readers"
        self._settings = settings or MilvusSettings()

    def build(self, identity: Identity, batches: Iterable[pa.RecordBatch], delta: Delta | None = None) -> None:
        """Build a generation's directory; see `Publisher.build`. Raises NightshiftError when it exists."""
        path = self._path(identity.collection)
        if path.exists():
            raise NightshiftError(f"{path}: already exists; a collection's name is never used twice")
        path.parent.mkdir(parents=True, exist_ok=True)
        if delta is None:
            with _server(path) as client, convert_errors(str(path)):
                create(client, identity)
                with (path / VECTORS).open("wb") as file:
                    fill(client, identity, _keep_vectors(batches, file))
                index_and_load(client, identity)
        else:
            self._build_from_copy(path, identity, batches, delta)
        sync_files(path)
        record_checksums(path, compute_checksums(path))
        sync_folder(path.parent)
        log.debug("%s: closed", identity.collection)

    def _build_from_copy(self, path: Path, identity: Identity, batches: Iterable[pa.RecordBatch], delta: Delta) -> None:
        """Copy the generation that `delta` names, and change in the copy what differs.

        Raises NotCopied when the generation must be built from nothing, Damaged when a file of the earlier one is.
        """
        source = self._path(delta.collection)
        recorded = read_checksums(source) if source.is_dir() else None
        if recorded is None or VECTORS not in recorded:
            raise NotCopied(f"{source}: has no checksums or no vectors, because an earlier version made it")
        clone_generation(source, path, {VECTORS, CHECKSUMS, SLOTS})
        linked = {name: checksum for name, checksum in recorded.items() if (path / name).exists()}
        check_files(path, linked, source)  # before milvus-lite reads the files
        with _server(path) as client, convert_errors(str(path)):
            earlier = read_identity(client, delta.collection)
            check_copyable(path, earlier, identity, delta, self._settings.index_params)
            slots = plan_slots(delta, read_slots(source) or Slots(np.arange(earlier.rows)))
            shape = (earlier.rows, earlier.dimension)
            vectors = np.memmap(source / VECTORS, np.float32, "r", shape=shape)
            rename(client, earlier.collection, identity)
            with (path / VECTORS).open("wb") as file:
                apply_delta(client, identity, delta, _keep_vectors(batches, file), vectors, slots)
        slots.write(path)

    def open(self, collection: str) -> CollectionReader:
        """Clone a generation's directory, verify its checksums, and open the clone; see `Opener.open`.

        Raises NightshiftError when the directory is missing, Damaged when a file does not match its checksum.
        """
        source = self._existing(collection)
        self.tidy()
        folder = self._readers / uuid.uuid4().hex
        lock = FileLock(folder.with_suffix(".lock"))
        self._readers.mkdir(parents=True, exist_ok=True)
        lock.acquire()

        def free_clone() -> None:
            _stop_server(clone)
            shutil.rmtree(folder, ignore_errors=True)
            folder.with_suffix(".lock").unlink(missing_ok=True)
            lock.release()

        clone = folder / source.name
        try:
            clone_generation(source, clone)
            with naming(source, clone):
                recorded = read_checksums(clone)
            if recorded is not None:
                check_files(clone, recorded, source)  # before milvus-lite reads the files
            checksums = compute_checksums(clone) if recorded is None else recorded
            reader = self._reader(source, clone, checksums, free_clone)
        except (Mismatch, Damaged):
            free_clone()
            raise
        except Exception as error:  # milvus-lite raises various errors for damaged files
            free_clone()
            raise NightshiftError(f"{source}: does not load ({type(error).__name__}: {error}). {NEXT}") from error
        if recorded is None:
            self._record_checksums(source, reader, checksums)
        return reader

    def _reader(
        self, source: Path, clone: Path, checksums: Checksums, free_clone: Callable[[], None]
    ) -> CollectionReader:
        """Open a reader of a clone. Its `check` verifies only shared files: milvus-lite may change the others."""
        shared = {name: checksum for name, checksum in checksums.items() if Path(name).suffix in IMMUTABLE}
        check = partial(check_files, clone, shared, source, again=True)
        vectors = clone / VECTORS if (clone / VECTORS).exists() else None  # not in generations of earlier versions
        slots = read_slots(clone)
        return CollectionReader(connect(str(clone)), source.stem, self._settings, free_clone, check, vectors, slots)

    def _record_checksums(self, source: Path, reader: CollectionReader, checksums: Checksums) -> None:
        """Verify the contents of a generation without checksums (from an earlier version), then record checksums."""
        try:
            verified = verify_contents(self._home, reader, self._settings.min_recall)
        except BaseException:
            reader.close()
            raise
        if not verified:
            log.warning("%s: has no checksums; opened unverified", source)
            return
        try:
            record_checksums(source, checksums)
        except OSError as error:
            log.warning("%s: verified, but cannot write its checksums (%s)", source, error)
        else:
            log.info("%s: had no checksums; verified against the stored vectors, checksums recorded", source)

    def identity(self, collection: str) -> Identity:
        """Read the identity of a generation; from a clone if it has no checksums."""
        identity = self.check_files(collection)
        if identity is not None:
            return identity
        with closing(self.open(collection)) as reader:
            return reader.identity

    def check_files(self, collection: str) -> Identity | None:
        """Compare the files of a generation with their checksums, and read its identity; see `Publisher.check_files`.

        Only clones are opened, so nothing writes to these files while they are read.
        """
        path = self._existing(collection)
        with naming(path, path):
            recorded = read_checksums(path)
        if recorded is None:
            return None
        check_files(path, recorded, path)
        return stored_identity(path, collection)

    def move_pointer(self, pointer: Pointer) -> None:
        """Replace the pointer file."""
        write_json(self._pointer, pointer.model_dump())

    def serving(self) -> Pointer | None:
        """Read the pointer file. Raises Damaged when it is not a valid pointer."""
        try:
            return Pointer(**json.loads(self._pointer.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, ValidationError) as error:
            raise Damaged(
                f"{self._pointer}: not a pointer to a release; `nightshift releases` rebuilds it from the ledger"
            ) from error

    def set_pointer_aside(self, reason: object) -> None:
        """Rename the pointer file."""
        set_aside(self._pointer, reason)

    def unload(self, collection: str) -> None:
        """Do nothing: only readers load collections, each its own clone."""

    def drop(self, collection: str) -> None:
        """Remove a generation's directory. Open readers keep their clones. Raises NightshiftError if it serves."""
        pointer = self.serving()
        if pointer is not None and pointer.collection == collection:
            raise NightshiftError(f"{collection} is serving; it cannot be removed")
        # Rename first: a half-removed directory must not look like a generation.
        doomed = self._folder / f".{collection}.dropped"
        with suppress(FileNotFoundError):
            self._path(collection).rename(doomed)
        self.tidy()

    def collections(self) -> set[str]:
        """Return the names of all generations on disk, finished or not."""
        return {path.stem for path in self._folder.glob("*.db")}

    def tidy(self) -> None:
        """Remove clones of dead processes and directories of unfinished drops."""
        for folder in self._folder.glob(".*.dropped"):
            shutil.rmtree(folder, ignore_errors=True)
        for file in self._readers.glob("*.lock"):
            with suppress(Timeout, FileNotFoundError), FileLock(file, timeout=0):
                shutil.rmtree(file.with_suffix(""), ignore_errors=True)
                file.unlink(missing_ok=True)

    def _path(self, collection: str) -> Path:
        return self._folder / f"{collection}.db"

    def _existing(self, collection: str) -> Path:
        path = self._path(collection)
        if not path.is_dir():
            raise NightshiftError(f"{path}: not found; this release's collection was pruned or removed")
        return path


def probe(home: Path) -> None:
    """Build, reopen, and search a collection of two rows below `home`. Raises NightshiftError when this fails."""
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
            raise NightshiftError(
                f"milvus-lite counted {reader.count()} rows instead of 2 and returned {best!r} instead of 'b'"
            )


def _keep_vectors(batches: Iterable[pa.RecordBatch], file: BinaryIO) -> Iterator[pa.RecordBatch]:
    """Yield the batches, and append their vectors to `file` as float32, in row order."""
    for batch in batches:
        vectors = matrix(batch["vector"], batch["vector"].type.list_size)
        file.write(np.ascontiguousarray(vectors, np.float32).data)
        yield batch


@contextmanager
def _server(path: Path) -> Iterator[MilvusClient]:
    """Open a client of the embedded server on `path`; stop the server at exit, since closing the client does not."""
    client = connect(str(path))
    try:
        yield client
    finally:
        client.close()
        _stop_server(path)


def _stop_server(path: Path) -> None:
    from milvus_lite.server_manager import server_manager_instance

    server_manager_instance.release_server(str(path))
