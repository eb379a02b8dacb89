"""Detects damaged artifacts and records by their checksums, and sets them aside.

`checksums.json` in an artifact's folder lists size and SHA-256 of every file, including the manifest. A record is a
JSON file with a digest of its fields.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from tasks.core.base.atomic_files import digest_of, file_digest, files_under, write_json
from tasks.core.base.errors import Damaged

log = logging.getLogger("nightshift.files")

MANIFEST, CHECKSUMS = "manifest.json", "checksums.json"
DIGEST = "digest"  # the field of a record with the digest of all other fields
SETTLED = 20_000_000  # nanoseconds, more than the resolution of modification times
_digests: dict[tuple[int, int, int, int], str] = {}  # by device, inode, size, modification time; a rename keeps them


class Checksum(NamedTuple):
    """Expected size of a file, in bytes, and its expected SHA-256, in hex."""

    size: int
    sha256: str


Checksums = Mapping[str, Checksum]  # by path relative to the folder


def write_checksums(folder: Path, manifest: bytes) -> None:
    """Record size and SHA-256 of every file below `folder`, and of `manifest`, the current or future manifest.

    Hidden files, such as locks, are not part of an artifact and are skipped.
    """
    files = {MANIFEST: Checksum(len(manifest), hashlib.sha256(manifest).hexdigest())}
    for file in files_under(folder):
        name = file.relative_to(folder)
        if str(name) not in (MANIFEST, CHECKSUMS) and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = Checksum(file.stat().st_size, digest_once(file))
    record_checksums(folder, files)


def record_checksums(folder: Path, checksums: Checksums) -> None:
    """Write checksums into their folder."""
    write_record(folder / CHECKSUMS, {"files": checksums})


def read_checksums(folder: Path) -> Checksums | None:
    """Read the checksums of `folder`; return None when it has none. Raises Damaged when they cannot be read."""
    try:
        listed = read_record(folder / CHECKSUMS)["files"]
        # An object of size and sha256 is the form of collections of earlier versions.
        values = {name: entry.values() if isinstance(entry, dict) else entry for name, entry in listed.items()}
        return {name: Checksum(int(size), str(digest)) for name, (size, digest) in values.items()}
    except FileNotFoundError:
        return None
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{folder / CHECKSUMS}: not a list of checksums ({error})") from error


def verify(folder: Path) -> bool:
    """Compare every file of an artifact with the size and SHA-256 in its `checksums.json`.

    Returns:
        True if all files match; False if `checksums.json` is missing or damaged, and nothing was compared.

    Raises:
        Damaged: a file is missing or differs.
    """
    checksums = None
    with suppress(Damaged):
        checksums = read_checksums(folder)
    if checksums is not None:
        check_files(folder, checksums)
    return checksums is not None


def check_files(folder: Path, checksums: Checksums, *, again: bool = False) -> None:
    """Compare the files of `folder` with their checksums; `again`: also hash files that this process hashed before.

    Raises:
        Damaged: a file is missing or differs.
    """
    for name, expected in checksums.items():  # sizes first: cheap, and they reveal most damage
        try:  # one call: another process may set the folder aside between two
            actual = (folder / name).stat().st_size
        except OSError as error:
            raise Damaged(f"{folder / name}: missing ({error.strerror})") from error
        if actual != expected.size:
            raise Damaged(f"{folder / name}: {actual} bytes, but {expected.size} were written")
    for name, expected in checksums.items():
        check_digest(folder / name, expected.sha256, again=again)


def check_digest(file: Path, digest: str, *, again: bool = False) -> None:
    """Compare a file's SHA-256 with `digest`. A process hashes an unchanged file only once, except with `again`.

    Raises:
        Damaged: the digests differ, or the file cannot be read.
    """
    try:
        same = digest_once(file, again=again) == digest
    except OSError as error:
        raise Damaged(f"{file}: cannot be read ({error})") from error
    if not same:
        raise Damaged(f"{file}: its content has changed (SHA-256 differs)")


def digest_once(path: Path, *, again: bool = False) -> str:
    """Return `file_digest(path)`. A process hashes an unchanged file only once, even after a rename.

    The digest of a file that was written in the last `SETTLED` nanoseconds is not kept, because another write may get
    the same modification time. `again`: hash the file anyway, and keep the new digest.
    """
    key, began = _facts(path), time.time_ns()
    if key in _digests and not again:
        return _digests[key]
    digest = file_digest(path)
    if began - key[-1] > SETTLED:
        _digests[key] = digest
    return digest


def forget_digests(folder: Path) -> None:
    """Hash the files of `folder` again at the next check, even if size and time of modification do not change."""
    for file in files_under(folder):
        with suppress(OSError):
            _digests.pop(_facts(file), None)


def _facts(path: Path) -> tuple[int, int, int, int]:
    facts = path.stat()
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns


def write_record(path: Path, fields: Mapping[str, object]) -> None:
    """Write `fields` with their digest to `path` as JSON, so `read_record` detects damage."""
    write_json(path, {**fields, DIGEST: digest_of(fields)})


def read_record(path: Path) -> dict[str, Any]:
    """Read the fields that `write_record` wrote. Files of earlier versions have no digest and are not checked.

    Raises:
        FileNotFoundError: the file does not exist.
        Damaged: the file is not JSON, or its digest differs.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        digest = fields.pop(DIGEST, None)
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: not a JSON object ({error})") from error
    if digest is not None and digest != digest_of(fields):
        raise Damaged(f"{path}: its fields have changed (their digest differs)")
    return fields


def set_aside(path: Path, reason: object) -> None:
    """Rename a damaged file or folder to `.<name>.damaged-<time>` and log the reason.

    Raises:
        Damaged: the file cannot be renamed; the message includes `reason`.
    """
    aside = path.with_name(f".{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was first
    except OSError as error:
        raise Damaged(f"{reason}. It cannot be set aside ({error}): run a night on a host with write access") from error
    with suppress(OSError):
        os.utime(aside)  # retention removes it `keep_days` from now
    log.warning("%s. Set aside as %s; it is rebuilt when needed", reason, aside.name)
