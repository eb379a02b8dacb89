"""Detect damaged files by checksums, which are written when a folder is complete; set damaged files aside."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from tasks.core.base.errors import Damaged
from tasks.core.base.files import file_digest, files_under, write_json

log = logging.getLogger("nightshift.release")

CHECKSUMS = "checksums.json"
LOCK = "LOCK"  # milvus-lite recreates it; it is always empty
NEXT = (
    "`nightshift releases repair` rebuilds the collection from the stored vectors, as the next night does; "
    "`nightshift rollback` serves the previous release"
)


class Checksum(NamedTuple):
    """Expected size of a file, in bytes, and its expected SHA-256, in hex."""

    size: int
    sha256: str


Checksums = Mapping[str, Checksum]  # by path relative to the folder


def compute_checksums(folder: Path) -> Checksums:
    """Return the checksums of every file below `folder` that contains data."""
    files = {file.relative_to(folder).as_posix(): file for file in files_under(folder)}
    return {
        name: Checksum(file.stat().st_size, file_digest(file))
        for name, file in files.items()
        if name not in (CHECKSUMS, LOCK)
    }


def write_checksums(folder: Path, checksums: Checksums) -> None:
    """Write the checksums of a complete folder into the folder."""
    write_json(folder / CHECKSUMS, {"files": {name: checksum._asdict() for name, checksum in checksums.items()}})


def read_checksums(folder: Path, display_path: Path) -> Checksums | None:
    """Read the checksums of `folder`; return None when it has none.

    Args:
        folder: with the checksum file.
        display_path: path to print in errors in place of `folder`.

    Raises Damaged when the checksum file cannot be read.
    """
    try:
        recorded = json.loads((folder / CHECKSUMS).read_text(encoding="utf-8"))["files"]
        return {name: Checksum(fields["size"], fields["sha256"]) for name, fields in recorded.items()}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise Damaged(f"{display_path / CHECKSUMS}: damaged, so no file can be verified. {NEXT}") from error


def check_files(folder: Path, checksums: Checksums, display_path: Path) -> None:
    """Compare the files of `folder` with their checksums: first all sizes, then all contents.

    Args:
        folder: with the files.
        checksums: expected size and SHA-256 of each file.
        display_path: path to print in errors in place of `folder`.

    Raises Damaged, with the name of the first file that differs.
    """
    try:
        for name, expected in checksums.items():
            if (size := (folder / name).stat().st_size) != expected.size:
                raise Damaged(f"{display_path / name}: damaged, {size} bytes instead of {expected.size}. {NEXT}")
        for name, expected in checksums.items():
            if file_digest(folder / name) != expected.sha256:
                raise Damaged(f"{display_path / name}: damaged, its content does not match its checksum. {NEXT}")
    except OSError as error:
        raise Damaged(f"{display_path / name}: damaged, it cannot be read ({error.strerror}). {NEXT}") from error
