"""Load rows into a collection with Milvus's bulk import: write Parquet files that the server reads, one job per file.

    <bulk>/<collection>/part-00000.parquet …      deleted when its job is done; the folder after the last job

A job is never started twice, because Milvus would import its rows twice. A failed job stops the build. Its files are
removed with the collection, whose name is never reused.
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
from tasks.core.base.read_ahead import read_ahead
from tasks.core.release.publisher import Identity

if TYPE_CHECKING:
    from pymilvus import MilvusClient

log = logging.getLogger("nightshift.release")

PART_BYTES = 256 << 20  # size of one file, held in memory until it is written; Milvus accepts up to 16 GB
GROUP_ROWS = 8192
JOBS = 16  # maximum files waiting or being imported; far below the queue of any server
POLL_SECONDS = 0.5
LOG_SECONDS = 10.0  # between two log lines
STUCK_SECONDS = 3600.0  # without progress; Milvus gives up earlier
CALL_SECONDS = 60.0  # timeout of a request


@dataclass
class _Job:
    number: int
    file: str  # path in our filesystem
    rows: int
    percent: int = 0


class _SharedFolder:
    """A folder that both this process and the server can read: in the server's bucket or on a shared disk."""

    def __init__(self, address: str, collection: str) -> None:
        from pyarrow import fs

        self._shown = address.split("?")[0]
        with self.convert_errors():
            self.files, root = fs.FileSystem.from_uri(address if "://" in address else Path(address).resolve().as_uri())
        # The server expects paths without the bucket, or absolute paths on its disk.
        self._bucket = "" if isinstance(self.files, fs.LocalFileSystem) else root.partition("/")[0] + "/"
        self.path = f"{root.rstrip('/')}/{collection}"

    def for_server(self, file: str) -> str:
        """Return the path of a file as the server expects it."""
        return file.removeprefix(self._bucket)

    @contextmanager
    def convert_errors(self) -> Iterator[None]:
        """Convert filesystem errors to Unreachable."""
        try:
            yield
        except OSError as error:
            raise Unreachable(f"[milvus] bulk = {self._shown}: {error}") from error

    def clear(self) -> None:
        """Delete the collection's folder and its files."""
        with self.convert_errors():
            try:
                self.files.delete_dir(self.path)
            except FileNotFoundError:
                return


def bulk_insert(client: MilvusClient, identity: Identity, batches: Iterable[pa.RecordBatch], address: str) -> None:
    """Import all batches into the collection through Parquet files.

    Writes files while earlier files are imported; at most `JOBS` files exist at a time.

    Args:
        client: of the server.
        identity: of the collection.
        batches: the rows.
        address: a folder, or a URL such as s3://bucket/folder, that the server reads too.

    Raises NightshiftError, with Milvus's reason, when a file is rejected or its row count differs; Unreachable when the
    folder cannot be read or written.
    """
    name, folder = identity.collection, _SharedFolder(address, identity.collection)
    jobs = _Jobs(client, identity, folder)
    try:
        with folder.convert_errors():
            folder.files.create_dir(folder.path, recursive=True)
        for file, rows in _write_files(folder, batches):
            log.info("%s: %s written, %d passages", name, file.rpartition("/")[2], rows)
            jobs.start(file, rows)
            jobs.wait(most=JOBS - 1)
        jobs.wait(most=0)
    finally:
        folder.clear()
    if jobs.imported != identity.rows:
        raise NightshiftError(f"collection {name}: {jobs.imported} passages imported, expected {identity.rows}")


def remove_files(address: str, collection: str) -> None:
    """Delete import files of a collection that a killed process left. Raises Unreachable when `address` fails."""
    _SharedFolder(address, collection).clear()


def _write_files(folder: _SharedFolder, batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[str, int]]:
    """Write the batches file by file; yield the path of each file and its number of rows."""
    import pyarrow.parquet as pq

    for number, part in enumerate(_group_batches(batches)):
        file, table = f"{folder.path}/part-{number:05d}.parquet", pa.Table.from_batches(part)
        with folder.convert_errors(), folder.files.open_output_stream(file) as stream:
            # Vectors and texts rarely repeat, so dictionaries would not save space.
            pq.write_table(table, stream, row_group_size=GROUP_ROWS, use_dictionary=False)
        yield file, table.num_rows


def _group_batches(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Yield the batches of each file, read before the file is opened."""
    part: list[pa.RecordBatch] = []
    size = 0
    for batch in read_ahead(batches):
        part.append(_convert_vectors(batch))
        size += batch.nbytes
        if size >= PART_BYTES:
            yield part
            part, size = [], 0
    if part:
        yield part


def _convert_vectors(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Convert vectors to variable-size lists: Milvus 2.3 rejects fixed-size lists, later versions accept both."""
    at = batch.schema.get_field_index("vector")
    return batch.set_column(at, "vector", batch["vector"].cast(pa.list_(pa.float32())))


class _Jobs:
    """The import jobs of one collection."""

    def __init__(self, client: MilvusClient, identity: Identity, folder: _SharedFolder) -> None:
        # MilvusClient has no bulk import; pymilvus's functions for it need a separate, global connection.
        self._calls: Any = client._get_connection()
        self._identity, self._folder = identity, folder
        self._running: list[_Job] = []
        self._progressed = self._logged = time.monotonic()
        self.imported = 0

    def start(self, file: str, rows: int) -> None:
        """Start the import of a file."""
        # No retries: if only the reply was lost, a retry would import the rows twice.
        number = self._calls.do_bulk_insert(
            self._identity.collection, "", [self._folder.for_server(file)], timeout=CALL_SECONDS, retry_times=0
        )
        self._running.append(_Job(number, file, rows))

    def wait(self, most: int) -> None:
        """Wait until at most this number of jobs is left.

        Raises NightshiftError when Milvus rejects a file or makes no progress for `STUCK_SECONDS`.
        """
        while True:
            for job in list(self._running):
                self._update(job)
            self._log_progress()
            if len(self._running) <= most:
                return
            if time.monotonic() - self._progressed > STUCK_SECONDS:
                raise NightshiftError(f"{self._running[0].file}: Milvus imported no rows for {STUCK_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def _update(self, job: _Job) -> None:
        from pymilvus import BulkInsertState

        status = self._calls.get_bulk_insert_state(job.number, timeout=CALL_SECONDS)
        if status.state in (BulkInsertState.ImportFailed, BulkInsertState.ImportFailedAndCleaned):
            raise NightshiftError(f"{job.file}: Milvus rejects the file: {status.failed_reason}")
        if status.progress != job.percent:
            job.percent, self._progressed = status.progress, time.monotonic()
        if status.state == BulkInsertState.ImportCompleted:
            if status.row_count != job.rows:
                raise NightshiftError(f"{job.file}: {status.row_count} of {job.rows} passages imported")
            with self._folder.convert_errors():
                self._folder.files.delete_file(job.file)
            self._running.remove(job)
            self.imported, self._logged = self.imported + job.rows, -LOG_SECONDS

    def _log_progress(self) -> None:
        if (now := time.monotonic()) - self._logged >= LOG_SECONDS:
            self._logged, total = now, self._identity.rows
            in_progress = sum(job.rows * job.percent // 100 for job in self._running)
            log.info(
                "%s: %d of %d passages imported (%d %%); %d files in progress",
                self._identity.collection,
                self.imported,
                total,
                100 * (self.imported + in_progress) // max(1, total),
                len(self._running),
            )
