"""Detect damage to a Lucene index. Each file ends with the CRC-32 of all bytes before it; Lucene rarely checks it."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

from tasks.core.base.errors import Damaged
from tasks.core.base.files import files_under
from tasks.core.base.receipts import Index

FOOTER = struct.Struct(">IIQ")  # magic, algorithm, checksum
MAGIC, CRC32 = 0xC02893E8, 0
LOCK = "write.lock"
BLOCK = 1 << 20  # bytes read at once
# A segment's `.si` file lists the segment's files. A control character, the length, precedes each name.
_NAME = re.compile(rb"[\x00-\x1f](_[0-9a-z]+(?:_[0-9A-Za-z_]+)?\.[a-z]{2,4})")


def check_lucene(folder: Path) -> None:
    """Verify the checksum of every file of the Lucene index in `folder`, and that no segment file is missing.

    Raises Damaged with the name of the first damaged or missing file.
    """
    files = [file for file in files_under(folder) if file.name != LOCK]
    for file in files:
        if not _is_intact(file):
            raise Damaged(f"{file}: damaged, its checksum does not match")
    segments = [file for file in files if file.suffix == ".si"]
    listed = {name.decode() for file in segments for name in _NAME.findall(file.read_bytes())}
    missing = listed - {file.name for file in files}
    if missing or not segments or not any(file.name.startswith("segments_") for file in files):
        raise Damaged(f"{folder}: damaged, {min(missing, default='the list of its segments')} is missing")


def damaged_indexes(home: Path) -> list[Path]:
    """Return the damaged indexes of a home that were set aside."""
    return sorted((home / Index.shelf).glob(".*.damaged-*"))


def _is_intact(file: Path) -> bool:
    try:
        return _matches(file)
    except OSError:  # the disk cannot read the file
        return False


def _matches(file: Path) -> bool:
    remaining = file.stat().st_size - 8  # the checksum covers everything before itself
    if remaining < FOOTER.size - 8:
        return False
    crc = 0
    with file.open("rb") as handle:
        while remaining:
            block = handle.read(min(BLOCK, remaining))
            crc, remaining = zlib.crc32(block, crc), remaining - len(block)
        handle.seek(-FOOTER.size, 2)
        return FOOTER.unpack(handle.read()) == (MAGIC, CRC32, crc)
