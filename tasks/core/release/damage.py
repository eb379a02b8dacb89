"""Checksums of a collection's files. Errors name the original file and the next step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tasks.core.base import checksums as base_checksums
from tasks.core.base.checksums import CHECKSUMS, Checksum, Checksums, digest_once
from tasks.core.base.errors import Damaged
from tasks.core.base.files import files_under

LOCK = "LOCK"  # milvus-lite recreates it; it is always empty
NEXT = (
    "`nightshift releases repair` rebuilds the collection from the stored vectors, as the next night does; "
    "`nightshift rollback` serves the previous release"
)


def compute_checksums(folder: Path) -> Checksums:
    """Return the checksums of every file below `folder` that contains data.

    A file that this process hashed before under another name (a hard link) is not read again.
    """
    files = {file.relative_to(folder).as_posix(): file for file in files_under(folder)}
    return {
        name: Checksum(file.stat().st_size, digest_once(file))
        for name, file in files.items()
        if name not in (CHECKSUMS, LOCK)
    }


def check_files(clone: Path, checksums: Checksums, source: Path, *, again: bool = False) -> None:
    """Compare the files of a clone with their checksums. Raises Damaged as `naming` does.

    A process reads an unchanged file only once, except with `again`. A file counts as unchanged if its inode, size,
    and modification time are equal, so the hard links of a night's copies and clones are read once. What that misses
    is a file that changes under a running process without a new modification time; readers that serve for long check
    with `again`, and every new process reads all files.
    """
    with naming(source, clone):
        base_checksums.check_files(clone, checksums, again=again)


@contextmanager
def naming(source: Path, clone: Path) -> Iterator[None]:
    """Raise Damaged with the path in `source` in place of the path in `clone`, and with the next step."""
    try:
        yield
    except Damaged as error:
        raise Damaged(f"{str(error).replace(str(clone), str(source))}. {NEXT}") from error
