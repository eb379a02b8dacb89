"""Damage to a Lucene index: each file ends with the CRC-32 of all bytes before it, which Lucene rarely compares."""

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
# A segment's `.si` file lists the segment's files. Names are preceded by their length, a control character.
_NAME = re.compile(rb"[\x00-\x1f](_[0-9a-z]+(?:_[0-9A-Za-z_]+)?\.[a-z]{2,4})")


def check_lucene(folder: Path) -> None:
    """Verify the bytes of every file of the Lucene index in `folder`, and that no file of a segment is missing.

    Raises Damaged naming the first file that is not whole.
    """
    files = [file for file in files_under(folder) if file.name != LOCK]
    for file in files:
        if not _is_whole(file):
            raise Damaged(f"{file}: damaged, its checksum does not match")
    segments = [file for file in files if file.suffix == ".si"]
    named = {name.decode() for file in segments for name in _NAME.findall(file.read_bytes())}
    missing = named - {file.name for file in files}
    if missing or not segments or not any(file.name.startswith("segments_") for file in files):
        raise Damaged(f"{folder}: damaged, {min(missing, default='the list of its segments')} is missing")


def damaged_indexes(home: Path) -> list[Path]:
    """The indexes of a home that were damaged and set aside."""
    return sorted((home / Index.shelf).glob(".*.damaged-*"))


def _is_whole(file: Path) -> bool:
    try:
        return _matches(file)
    except OSError:  # the disk does not read it
        return False


def _matches(file: Path) -> bool:
    left = file.stat().st_size - 8  # the checksum covers all but itself
    if left < FOOTER.size - 8:
        return False
    crc = 0
    with file.open("rb") as handle:
        while left:
            block = handle.read(min(BLOCK, left))
            crc, left = zlib.crc32(block, crc), left - len(block)
        handle.seek(-FOOTER.size, 2)
        return FOOTER.unpack(handle.read()) == (MAGIC, CRC32, crc)
