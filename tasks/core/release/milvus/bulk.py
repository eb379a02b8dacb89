"""Rows into a collection by Milvus's bulk import: Parquet files where the server reads, a job of it for each.

    <bulk>/<collection>/part-00000.parquet …      each removed when its job is done, the folder after the last

A job is never begun twice, for Milvus would import its rows twice. One that fails ends the build, and what it leaves is
removed with the collection, whose name is never used again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from tasks.core.base.errors import NightshiftError, Unreachable
from tasks.core.release.milvus.collection import read_ahead
from tasks.core.release.publisher import Identity

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

PART_BYTES = 256 << 20  # of rows in one file, held in memory until it is written; Milvus takes up to 16 GB
GROUP_ROWS = 8192
JOBS = 16  # files that wait or are imported at once: what the folder holds, and far below what any server queues
POLL_SECONDS = 0.5
TELL_SECONDS = 10.0
STUCK_SECONDS = 3600.0  # without any progress; Milvus gives up before
ASK_SECONDS = 60.0


@dataclass
class _Job:
    number: int
    file: str  # as our filesystem calls it
    rows: int
    percent: int = 0


class _Place:
    """A folder that both we and the server reach: of the server's bucket, or of a disk they share."""

    def __init__(self, where: str, collection: str) -> None:
        from pyarrow import fs

        self._shown = where.split("?")[0]
        with self.reachable():
            self.files, root = fs.FileSystem.from_uri(where if "://" in where else Path(where).resolve().as_uri())
        # The server names what is in its bucket without the bucket, and what is on its disk from the root on.
        self._bucket = "" if isinstance(self.files, fs.LocalFileSystem) else root.partition("/")[0] + "/"
        self.folder = f"{root.rstrip('/')}/{collection}"

    def for_server(self, file: str) -> str:
        """The name by which the server finds a file."""
        return file.removeprefix(self._bucket)

    @contextmanager
    def reachable(self) -> Iterator[None]:
        """Turn what a filesystem raises into Unreachable."""
        try:
            yield
        except OSError as error:
            raise Unreachable(f"[milvus] bulk = {self._shown}: {error}") from error

    def clear(self) -> None:
        """Remove the collection's folder and what is in it."""
        with self.reachable():
            try:
                self.files.delete_dir(self.folder)
            except FileNotFoundError:
                return


def bulk_insert(client: MilvusClient, identity: Identity, batches: Iterable[pa.RecordBatch], where: str) -> None:
    """Bring all batches into the collection through files in `where`, a folder or an address such as s3://bucket/folder.

    Files are written while those before them are imported, and `JOBS` of them at most lie there. Raises NightshiftError
    with Milvus's reason when it refuses a file or imports other rows than it holds, Unreachable when `where` fails.
    """
    name, place = identity.collection, _Place(where, identity.collection)
    jobs = _Jobs(client, identity, place)
    try:
        with place.reachable():
            place.files.create_dir(place.folder, recursive=True)
        for file, rows in _written(place, batches):
            log.info("%s: %s written, %d passages", name, file.rpartition("/")[2], rows)
            jobs.begin(file, rows)
            jobs.wait(until=JOBS - 1)
        jobs.wait(until=0)
    finally:
        place.clear()
    if jobs.imported != identity.rows:
        raise NightshiftError(
            f"collection {name}: {jobs.imported} passages imported, the manifest says {identity.rows}"
        )


def remove_files(where: str, collection: str) -> None:
    """Remove what a killed process left of a collection's files. Raises Unreachable when `where` fails."""
    _Place(where, collection).clear()


def _written(place: _Place, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, int]]:
    """Write the batches, a file at a time; each file and its rows."""
    import pyarrow.parquet as pq

    for number, part in enumerate(_parts(batches)):
        file, table = f"{place.folder}/part-{number:05d}.parquet", pa.Table.from_batches(part)
        with place.reachable(), place.files.open_output_stream(file) as stream:
            # Vectors and texts seldom repeat: a dictionary of them is built in vain.
            pq.write_table(table, stream, row_group_size=GROUP_ROWS, use_dictionary=False)
        yield file, table.num_rows


def _parts(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """The batches that go into one file, read before it is opened."""
    part: list[pa.RecordBatch] = []
    size = 0
    for batch in read_ahead(iter(batches)):
        part.append(_as_milvus_reads(batch))
        size += batch.nbytes
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _as_milvus_reads(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Vectors as lists: Milvus 2.3 refuses those of a fixed size, later ones take both."""
    at = batch.schema.get_field_index("vector")
    return batch.set_column(at, "vector", batch["vector"].cast(pa.list_(pa.float32())))


class _Jobs:
    """The import jobs of a collection."""

    def __init__(self, client: MilvusClient, identity: Identity, place: _Place) -> None:
        # MilvusClient has no method for it; the functions that have one keep connections of their own, by global names.
        self._calls: Any = client._get_connection()
        self._identity, self._place = identity, place
        self._running: list[_Job] = []
        self._moved = self._told = time.monotonic()
        self.imported = 0

    def begin(self, file: str, rows: int) -> None:
        """Have the server import a file."""
        # Once: pymilvus would ask again where an answer was lost.
        number = self._calls.do_bulk_insert(
            self._identity.collection, "", [self._place.for_server(file)], timeout=ASK_SECONDS, retry_times=0
        )
        self._running.append(_Job(number, file, rows))

    def wait(self, until: int) -> None:
        """Wait until so many jobs are left."""
        while True:
            for job in list(self._running):
                self._look(job)
            self._tell()
            if len(self._running) <= until:
                return
            if time.monotonic() - self._moved > STUCK_SECONDS:
                raise NightshiftError(f"{self._running[0].file}: Milvus imports nothing for {STUCK_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _look(self, job: _Job) -> None:
        from pymilvus import BulkInsertState

        found = self._calls.get_bulk_insert_state(job.number, timeout=ASK_SECONDS)
        if found.state in (BulkInsertState.ImportFailed, BulkInsertState.ImportFailedAndCleaned):
            raise NightshiftError(f"{job.file}: Milvus does not import it: {found.failed_reason}")
        if found.progress != job.percent:
            job.percent, self._moved = found.progress, time.monotonic()
        if found.state == BulkInsertState.ImportCompleted:
            if found.row_count != job.rows:
                raise NightshiftError(f"{job.file}: {found.row_count} of {job.rows} passages imported")
            with self._place.reachable():
                self._place.files.delete_file(job.file)
            self._running.remove(job)
            self.imported, self._told = self.imported + job.rows, -TELL_SECONDS

    def _tell(self) -> None:
        if (now := time.monotonic()) - self._told >= TELL_SECONDS:
            self._told, total = now, self._identity.rows
            under_way = sum(job.rows * job.percent // 100 for job in self._running)
            log.info(
                "%s: %d of %d passages imported (%d %%); %d files under way",
                self._identity.collection,
                self.imported,
                total,
                100 * (self.imported + under_way) // max(1, total),
                len(self._running),
            )
