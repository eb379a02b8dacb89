"""Digests of source files that have not changed since they were last hashed, so an unchanged source is not read.

    <home>/source-digests.json

A local file counts as unchanged if device, inode, size, and both of its times (of content and of status) are equal. A
program can set back the first time, but not the second. In a bucket, size and modification time must be equal. A time
that is not older than the hashing by `SETTLED` seconds proves nothing, since a later write may get the same time; such
a file is hashed again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path

from pyarrow import fs

from tasks.core.base.checksums import read_record, write_record
from tasks.core.base.errors import Damaged
from tasks.core.sources.locations import Location, Stored

FILE = "source-digests.json"  # in the home
SETTLED = {True: 2, False: 60}  # seconds; local file or not. Buckets store whole seconds of another clock
NANOSECONDS = 10**9


def digest_files(location: Location, files: Sequence[Stored], address: str, home: Path | None) -> dict[str, str]:
    """Return the SHA-256 of each file in hex, by its name. Reads only files that changed since the last call.

    Args:
        location: of the source.
        files: to hash.
        address: of the source, as the settings give it. It is stored as a hash, since it may contain a password.
        home: of the earlier digests; None: read all files.

    Raises BadInput when a file cannot be read, or changes while it is read.
    """
    if home is None:
        return {file.name: location.digest(file) for file in files}
    sources = _read(home / FILE)
    source = hashlib.sha256(address.encode()).hexdigest()[:20]
    known = sources.get(source, {})
    entries = {file.name: _update(location, file, known.get(file.name)) for file in files}
    if entries != known:
        home.mkdir(parents=True, exist_ok=True)
        write_record(home / FILE, {"sources": {**sources, source: entries}})
    return {name: str(entry["digest"]) for name, entry in entries.items()}


Entry = dict[str, object]  # digest of a file, its facts, and whether they prove that it is unchanged


def _read(file: Path) -> dict[str, dict[str, Entry]]:
    try:
        sources: dict[str, dict[str, Entry]] = read_record(file)["sources"]
    except (FileNotFoundError, Damaged, KeyError):
        return {}
    return sources


def _update(location: Location, file: Stored, known: Entry | None) -> Entry:
    facts = _facts(location, file)
    if known is not None and known["settled"] and known["facts"] == facts:
        return known
    began = time.time()
    digest = location.digest(file)
    local = isinstance(location.filesystem, fs.LocalFileSystem)
    settled = max(facts[-2:]) < (began - SETTLED[local]) * NANOSECONDS
    return {"digest": digest, "facts": facts, "settled": settled}


def _facts(location: Location, file: Stored) -> list[int]:
    """Return what identifies the content of a file without reading it; the last two are times in nanoseconds."""
    if not isinstance(location.filesystem, fs.LocalFileSystem):
        return [file.size, file.changed, file.changed]
    status = Path(file.path).stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
