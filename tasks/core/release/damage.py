"""Checksums of a collection's files. Errors name the original file and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.base import checksums as base_checksums
from tasks.core.base.checksums import CHECKSUMS, Checksum, Checksums
from tasks.core.base.errors import Damaged
from tasks.core.base.files import file_digest, files_under

LOCK = "LOCK"  # milvus-lite recreates it; it is always empty
NEXT = (
    "`nightshift releases repair` rebuilds the collection from the stored vectors, as the next night does; "
    "`nightshift rollback` serves the previous release"
)


def compute_checksums(folder: Path) -> Checksums:
    """Return the checksums of every file below `folder` that contains data."""
    files = {file.relative_to(folder).as_posix(): file for file in files_under(folder)}
    return {
        name: Checksum(file.stat().st_size, file_digest(file))
        for name, file in files.items()
        if name not in (CHECKSUMS, LOCK)
    }


def check_files(clone: Path, checksums: Checksums, source: Path) -> None:
    """Read every file of a clone again, and compare it with its checksum. Raises Damaged as `naming` does."""
    with naming(source, clone):
        base_checksums.check_files(clone, checksums, again=True)


@contextmanager
def naming(source: Path, clone: Path) -> Iterator[None]:
    """Raise Damaged with the path in `source` in place of the path in `clone`, and with the next step."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{str(error).replace(str(clone), str(source))}. {NEXT}") from error
