"""Detects damaged files: checksums of an artifact, JSON records with a digest of their own; damaged ones are set aside.

`checksums.json` in an artifact's folder lists size and SHA-256 of every file, the manifest among them.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core.base.atomic_files import digest_of, file_digest, files_under, write_json
from tasks.core.base.errors import Damaged

log = logging.getLogger("nightshift.files")

MANIFEST, CHECKSUMS = "manifest.json", "checksums.json"
DIGEST = "digest"  # the field of a record that names its other fields
_digests: dict[tuple[int, int, int, int], str] = {}  # device, inode, size, time of change: a rename keeps them


def write_checksums(folder: Path, manifest: bytes) -> None:
    """Record size and SHA-256 of every file below `folder`, and of the content that its manifest has or will have.

    Hidden files, such as locks, are left out: they are no part of an artifact.
    """
    files = {MANIFEST: (len(manifest), hashlib.sha256(manifest).hexdigest())}
    for file in files_under(folder):
        name = file.relative_to(folder)
        if str(name) not in (MANIFEST, CHECKSUMS) and not any(part.startswith(".") for part in name.parts):
            files[name.as_posix()] = (file.stat().st_size, digest_once(file))
    write_record(folder / CHECKSUMS, {"files": files})


def verify(folder: Path) -> bool:
    """Compare every file of an artifact with the size and SHA-256 in its `checksums.json`.

    False: that file is not there, or is itself damaged; nothing was compared.

    Raises:
        Damaged: a file is missing or holds other bytes.
    """
    try:
        listed = read_record(folder / CHECKSUMS)["files"]
        files = [(folder / name, int(size), str(digest)) for name, (size, digest) in listed.items()]
    except (FileNotFoundError, Damaged, LookupError, ValueError, TypeError, AttributeError):
        return False
    for file, size, _ in files:  # cheap, and enough for most damage
        if not file.is_file():
            raise Damaged(f"{file}: missing")
        if file.stat().st_size != size:
            raise Damaged(f"{file}: {file.stat().st_size} bytes, {size} were written")
    for file, _, digest in files:
        check_digest(file, digest)
    return True


def check_digest(file: Path, digest: str) -> None:
    """Compare a file's SHA-256 with `digest`; a process reads an unchanged file once for it.

    Raises:
        Damaged: it is another one, or the file cannot be read.
    """
    try:
        same = digest_once(file) == digest
    except OSError as error:
        raise Damaged(f"{file}: cannot be read ({error})") from error
    if not same:
        raise Damaged(f"{file}: other bytes than were written (its SHA-256 differs)")


def digest_once(path: Path) -> str:
    """`file_digest`; a process reads an unchanged file once for it, under any name."""
    facts = path.stat()
    key = (facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns)
    if key not in _digests:
        _digests[key] = file_digest(path)
    return _digests[key]


def write_record(path: Path, fields: Mapping[str, object]) -> None:
    """Replace `path` by the JSON of `fields` and their digest, so that `read_record` notices any damage."""
    write_json(path, {**fields, DIGEST: digest_of(fields)})


def read_record(path: Path) -> dict[str, Any]:
    """Read the fields that `write_record` wrote; a file without a digest, of an earlier version, is read as it is.

    Raises:
        FileNotFoundError: there is no such file.
        Damaged: the file does not hold what was written.
    """
    try:
        fields: dict[str, Any] = json.loads(path.read_bytes())
        digest = fields.pop(DIGEST, None)
    except (ValueError, TypeError, AttributeError) as error:
        raise Damaged(f"{path}: not a JSON object ({error})") from error
    if digest is not None and digest != digest_of(fields):
        raise Damaged(f"{path}: its fields are not those that were written")
    return fields


def set_aside(path: Path, reason: object) -> None:
    """Rename a damaged file or folder to `.<name>.damaged-<time>` and log the reason.

    Raises:
        Damaged: the reason, where its folder cannot be written.
    """
    aside = path.with_name(f".{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S%f}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return  # another process was first
    except OSError as error:
        raise Damaged(f"{reason}. It cannot be set aside ({error}): let a night run where it can be written") from error
    with suppress(OSError):
        os.utime(aside)  # an artifact set aside is removed `keep_days` from now
    log.warning("%s. Set aside as %s; it is made again when it is needed", reason, aside.name)
