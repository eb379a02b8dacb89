"""Reads a text file line by line within a fixed memory, however long its lines are.

A record may be 16 MiB long: any passage that the contracts accept (1,000,000 characters) fits, even with each
character written as two JSON escapes. Of a longer record the first MiB is kept, and its fault says at which byte
of the file it begins, how long it is, and its SHA-256: the rest can be found and proven in the source.

So reading takes less than 768 MiB beside the bare program, whatever the files hold (a test holds it to that). Most of
it is what JSON itself costs: 16 MiB of `{},{},…` are five million objects.
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


def lines(place: Location, file: Stored) -> Iterator[Raw]:
    """Every line that is not blank, without its end; numbers count from 1 as an editor does, blank lines included.

    Raises BadInput, naming the line reached, when the file cannot be read to its end (a cut or damaged .gz or .zst).
    """
    number = 0
    with place.reading(file, lambda: f" past line {number}"), place.opened(file) as stream:
        for number, line in enumerate(_lines(stream), start=1):
            content = line.content()
            if number == 1:
                content = content.removeprefix(BOM)
            content = content.removesuffix(b"\r")
            if content.strip():
                yield Raw(file.name, number, content, line.fault())


def head_of(place: Location, file: Stored) -> bytes:
    """The first MiB of a file, decompressed. Raises BadInput when the file cannot be read."""
    with place.reading(file), place.opened(file) as stream:
        head: bytes = stream.read(CHUNK)
    return head


def head_lines(place: Location, file: Stored) -> list[Raw]:
    """The lines in the first MiB of a file that are not blank and not cut.

    Raises BadInput when the file cannot be read.
    """
    head = head_of(place, file)
    whole = head.removeprefix(BOM).split(b"\n")
    rows = [Raw(file.name, number, line.removesuffix(b"\r")) for number, line in enumerate(whole, start=1)]
    complete = rows if len(head) < CHUNK or len(rows) == 1 else rows[:-1]
    return [raw for raw in complete if raw.content.strip()]


class Growing:
    """A record as it comes in: whole up to the limit; beyond it only its head, its length and its digest."""

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
        """The record, or the head that is kept of it."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)

    def fault(self) -> Fault | None:
        """What is wrong with its length, if anything."""
        if self._digest is None:
            return None
        return Fault(
            "record_too_long",
            f"{self.length} bytes, more than the {LONGEST} that are read; it begins at byte {self.offset} of the "
            f"decompressed file, its SHA-256 is {self._digest.hexdigest()}; the first {KEPT} bytes are kept here",
        )


def _lines(stream: Any) -> Iterator[Growing]:
    """The lines of a stream, without their line feeds."""
    offset = 0
    line = Growing(0)
    while chunk := stream.read(CHUNK):
        *whole, rest = chunk.split(b"\n")
        for part in whole:
            line.add(part)
            yield line
            offset += line.length + 1
            line = Growing(offset)
        line.add(rest)
    if line.length:
        yield line
