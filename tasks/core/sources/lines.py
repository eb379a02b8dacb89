"""Reads a text file line by line in bounded memory, regardless of the length of its lines.

A record may have 16 MiB. Any passage that the contracts accept (1,000,000 characters) fits, even with each character
written as two JSON escapes. Of a longer record, the first MiB is kept. Its fault gives the offset in the file, the
length, and the SHA-256, to find and verify the rest in the source.

Reading takes less than 768 MiB in addition to the bare program, for any content (a test checks this). JSON parsing
takes most of it: 16 MiB of `{},{},…` are five million objects.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Fault, Raw

LONGEST = 16 * 2**20  # bytes
KEPT = 2**20
CHUNK = 2**20
BOM = b"\xef\xbb\xbf"


def lines(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield every line that is not blank, without its line end. Line numbers start at 1, and count blank lines.

    Raises BadInput, with the last line number, when the file cannot be read to its end (a truncated or corrupt .gz or
    .zst).
    """
    number = 0
    with location.reading(file, lambda: f" past line {number}"), location.opened(file) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            content = line.content()
            if number == 1:
                content = content.removeprefix(BOM)
            content = content.removesuffix(b"\r")
            if content.strip():
                yield Raw(file.name, number, content, line.fault())


def head_of(location: Location, file: Stored) -> bytes:
    """Return the first MiB of a file, decompressed. Raises BadInput when the file cannot be read."""
    with location.reading(file), location.opened(file) as stream:
        head: bytes = stream.read(CHUNK)
    return head


def head_lines(location: Location, file: Stored) -> list[Raw]:
    """Return the lines in the first MiB of a file that are complete and not blank.

    Raises BadInput when the file cannot be read.
    """
    head = head_of(location, file)
    whole = head.removeprefix(BOM).split(b"\n")
    rows = [Raw(file.name, number, line.removesuffix(b"\r")) for number, line in enumerate(whole, start=1)]
    complete = rows if len(head) < CHUNK or len(rows) == 1 else rows[:-1]
    return [raw for raw in complete if raw.content.strip()]


class RecordBuffer:
    """A record that is read in parts: complete up to the limit; of a longer one, the head, length, and digest."""

    def __init__(self, offset: int) -> None:
        self.offset = offset  # of its first byte in the decompressed file
        self.length = 0
        self._parts: list[bytes] = []
        self._digest: Any = None

    def add(self, part: bytes) -> None:
        """Append `part`."""
        self.length += len(part)
        if self._digest is None:
            self._parts.append(part)
            if self.length > LONGEST:
                whole = b"".join(self._parts)
                self._digest = hashlib.sha256(whole)
                self._parts = [whole[:KEPT]]
        else:
            self._digest.update(part)

    def content(self) -> bytes:
        """Return the record, or the head of a record over the limit."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def fault(self) -> Fault | None:
        """Return the fault of a record over the limit, or None."""
        if self._digest is None:
            return None
        return Fault(
            "record_too_long",
            f"{self.length} bytes, more than the limit of {LONGEST}; it begins at byte {self.offset} of the "
            f"decompressed file, its SHA-256 is {self._digest.hexdigest()}; the first {KEPT} bytes are kept here",
        )


def _lines(stream: Any) -> Iterator[RecordBuffer]:
    """Yield the lines of a stream, without line feeds."""
    offset = 0
    line = RecordBuffer(0)
    while chunk := stream.read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line.add(part)
            yield line
            offset += line.length + 1
            line = RecordBuffer(offset)
        line.add(rest)
    if line.length:
        yield line
