"""Damage to files: noticed by checksums that are written when a folder is complete; damaged files are set aside."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from tasks.core.base.errors import Damaged
from tasks.core.base.files import file_digest, files_under, write_json

log = logging.getLogger("nightshift.release")

CHECKSUMS = "checksums.json"
LOCK = "LOCK"  # milvus-lite makes it again; it never holds a byte
NEXT = (
    "`nightshift releases repair` builds the collection again from the stored vectors, as the next night does; "
    "`nightshift rollback` serves the release before"
)


class Checksum(NamedTuple):
    """What a file must be: its size in bytes, and its SHA-256 in hex."""

    size: int
    sha256: str


Checksums = Mapping[str, Checksum]  # by path relative to the folder


def compute_checksums(folder: Path) -> Checksums:
    """The checksums of every file below `folder` that holds data."""
    files = {file.relative_to(folder).as_posix(): file for file in files_under(folder)}
    return {
        name: Checksum(file.stat().st_size, file_digest(file))
        for name, file in files.items()
        if name not in (CHECKSUMS, LOCK)
    }


def write_checksums(folder: Path, checksums: Checksums) -> None:
    """Record the checksums of a folder that is complete, in the folder."""
    write_json(folder / CHECKSUMS, {"files": {name: one._asdict() for name, one in checksums.items()}})


def read_checksums(folder: Path, shown: Path) -> Checksums | None:
    """The recorded checksums of `folder`, which errors call `shown`; None when none were recorded.

    Raises Damaged when the record cannot be read.
    """
    try:
        recorded = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
        return {name: Checksum(fields["size"], fields["sha256"]) for name, fields in recorded.items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{shown / CHECKSUMS}: damaged, so no file can be verified. {NEXT}") from error


def check_files(folder: Path, checksums: Checksums, shown: Path) -> None:
    """Compare the files of `folder`, which errors call `shown`, with their checksums; all sizes before any content.

    Raises Damaged naming the first file that differs.
    """
    try:
        for name, wanted in checksums.items():
            if (size := (folder / name).stat().st_size) != wanted.size:
                raise Damaged(f"{shown / name}: damaged, {size} bytes where {wanted.size} were verified. {NEXT}")
        for name, wanted in checksums.items():
            if file_digest(folder / name) != wanted.sha256:
                raise Damaged(f"{shown / name}: damaged, its bytes are not those that were verified. {NEXT}")
    except OSError as error:
        raise Damaged(f"{shown / name}: damaged, it cannot be read ({error.strerror}). {NEXT}") from error


def set_aside(path: Path, reason: object) -> None:
    """Rename a damaged file or folder to `.<name>.damaged-<time>` and log the reason.

    Raises Damaged with the reason, where its folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was first
    except OSError as error:
        raise Damaged(f"{reason}. It cannot be set aside ({error}); repair it where it can be written") from error
    log.warning("%s. Set aside as %s; it is made again", reason, aside.name)
