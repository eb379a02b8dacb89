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
from typing import Any

from pyarrow import fs

from tasks.core.base.checksums import read_record, write_record
from tasks.core.base.errors import Damaged
from tasks.core.sources.locations import Location, Stored

FILE = "source-digests.json"  # in the home
BLOCKS, BLOCK_BYTES = 64, 4096  # of a sample of a file: evenly spaced, with its first and its last bytes
SETTLED = {True: 2, False: 60}  # seconds; local file or not. Buckets store whole seconds of another clock
NANOSECONDS = 10**9


Entry = dict[str, Any]  # digest of a file, its facts, whether they are settled, and of a local file a sample
LOCAL = 5  # facts of a local file


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
    sources, source = _read(home / FILE), _key(address)
    known = sources.get(source, {})
    entries = {file.name: _update(location, file, known.get(file.name)) for file in files}
    if entries != known:
        home.mkdir(parents=True, exist_ok=True)
        write_record(home / FILE, {"sources": {**sources, source: entries}})
    return {name: str(entry["digest"]) for name, entry in entries.items()}


def known_files(address: str, home: Path) -> dict[str, Entry]:
    """Return what is known of the files of a source, by name; see `digest_files`."""
    return _read(home / FILE).get(_key(address), {})


def size_before_growth(location: Location, file: Stored, known: Entry) -> int | None:
    """Return the size of a local file when it was last hashed, if it is unchanged or has only grown since; else None.

    That its old content is unchanged is checked for a sample of `BLOCKS` blocks, its first and last bytes among them.
    """
    facts = _facts(location, file)
    before: list[int] = known["facts"]
    if known["settled"] and before == facts:
        return file.size
    grown = len(facts) == len(before) == LOCAL and facts[:2] == before[:2] and facts[2] > before[2]
    return before[2] if grown and _sample(Path(file.path), before[2]) == known.get("sample") else None


def _key(address: str) -> str:
    return hashlib.sha256(address.encode()).hexdigest()[:20]


def _sample(file: Path, size: int) -> str:
    """Return the digest of blocks of the first `size` bytes."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        for number in range(BLOCKS):
            start = max(0, size - BLOCK_BYTES) * number // (BLOCKS - 1)
            stream.seek(start)
            digest.update(stream.read(min(BLOCK_BYTES, size - start)))
    return digest.hexdigest()


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
    local = len(facts) == LOCAL
    settled = max(facts[-2:]) < (began - SETTLED[local]) * NANOSECONDS
    sample = {"sample": _sample(Path(file.path), file.size)} if local else {}
    return {"digest": digest, "facts": facts, "settled": settled, **sample}


def _facts(location: Location, file: Stored) -> list[int]:
    """Return what identifies the content of a file without reading it; the last two are times in nanoseconds."""
    if not isinstance(location.filesystem, fs.LocalFileSystem):
        return [file.size, file.changed, file.changed]
    status = Path(file.path).stat()
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
