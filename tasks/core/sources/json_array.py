"""Splits a large JSON array into its elements in bounded memory, and recovers after corrupt elements.

Elements are delimited by their brackets; the caller parses them. A string that reaches the end of a line is taken to
end there: JSON strings have no line feeds, so its closing quote is missing. An element that is not JSON and contains
what looks like the start of the next element (a line feed, the same indentation, and a brace) lacks a bracket, and is
cut there. In a file of many lines, a corrupt element therefore affects no other element.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.core.base.errors import BadInput
from tasks.core.sources.lines import BOM, CHUNK, LONGEST, RecordBuffer, lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Raw

_VISIBLE = re.compile(rb"\S")
_START = re.compile(rb"[^\s,\]]")
_BRACKET = re.compile(rb'["{}\[\]]')
_AFTER_PLAIN = re.compile(rb'[",{}\[\]]')
_IN_STRING = re.compile(rb'["\\\n]')
_CLOSING_LINE = re.compile(rb"\n([ \t]*)\]\s*$")
_LONGEST_INDENT = 4096


def elements(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the elements of the JSON array in a file, numbered from 1.

    Raises BadInput, with the number of the last element, when the file is unreadable, is not an array, or is cut off.
    """
    number = 0
    with location.reading(file, lambda: f" past element {number}"), location.opened(file) as stream:
        scan = _Scan(stream)
        if not scan.enter():
            raise BadInput(
                f"{location.where(file)}: does not begin with [, as an array of questions does. "
                "Rename it to .jsonl if it has one JSON object per line."
            )
        for number, element in enumerate(scan.elements(), start=1):
            yield Raw(file.name, number, element.content(), element.fault())
        if not scan.closed:
            raise BadInput(
                f"{location.where(file)}: ends after element {number} without the ] of its array. An unknown number of "
                "questions is missing, so nothing of this source is used. Copy it again."
            )


def records(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the elements of the array in a .json file, or the lines of any other file. Raises BadInput like both."""
    return elements(location, file) if file.bare.endswith(".json") else lines(location, file)


class _Scan:
    """Scans a stream of JSON through a window of at most one element and one chunk."""

    def __init__(self, stream: Any) -> None:
        self.closed = False  # the array has ended
        self._stream = stream
        self._window = b""
        self._at = 0  # position in the window; everything before it was returned
        self._offset = 0  # of that position in the decompressed file
        self._indent: bytes | None = None  # indentation of elements that begin a line

    def enter(self) -> bool:
        """Skip the opening bracket. Return False when there is none."""
        self._read_chunk()
        if self._window.startswith(BOM):
            self._advance(len(BOM))
        while (match := _VISIBLE.search(self._window, self._at)) is None:
            self._advance(len(self._window) - self._at)
            if not self._read_chunk():
                return False
        self._advance(match.end() - self._at)
        return match.group() == b"["

    def elements(self) -> Iterator[RecordBuffer]:
        """Yield the elements of the array, and any other text between its brackets."""
        while self._skip_to_element():
            yield self._read_element()

    def _skip_to_element(self) -> bool:
        """Move to the next element. Return False at the end of the file."""
        before = b""
        while (match := _START.search(self._window, self._at)) is None:
            before = (before + self._skip_to(len(self._window)))[-_LONGEST_INDENT:]
            if not self._read_chunk():
                return False
        before += self._skip_to(match.start())
        feed, indent = before.rpartition(b"\n")[1:]
        if feed and not indent.strip():
            self._indent = indent
        self.closed = False
        return True

    def _skip_to(self, position: int) -> bytes:
        """Move to `position`, and return the skipped text between elements."""
        between = self._window[self._at : position]
        self.closed = self.closed or b"]" in between
        self._advance(len(between))
        return between

    def _read_element(self) -> RecordBuffer:
        """Read the element that begins here, or the rest of the file if it does not end."""
        element = RecordBuffer(self._offset)
        brackets = _Brackets(self._window[self._at : self._at + 1])
        seen = 0  # scanned bytes of the element, not yet added to it
        while (end := brackets.end_in(self._window, self._at, seen)) is None:
            seen = len(self._window) - self._at
            if not element.length and seen > LONGEST and (end := self._next_start(seen)) is not None:
                break
            if element.length or seen > LONGEST:
                self._consume(element, seen)
                seen = 0
            if not self._read_chunk():
                end = seen if element.length else self._next_start(seen) or self._last_line(seen)
                break
        else:
            cut = None if element.length else self._next_start(end)
            end = end if cut is None or _is_json(self._window[self._at : self._at + end]) else cut
        self._consume(element, end)
        return element

    def _next_start(self, length: int) -> int | None:
        """Return the offset within the next `length` bytes at which another element seems to begin, or None."""
        if self._indent is None:
            return None
        start = self._window.find(b"\n" + self._indent + b"{", self._at + 1, self._at + length)
        return None if start < 0 else start - self._at

    def _last_line(self, length: int) -> int:
        """Return the length of an element that never closes: up to a last line that closes the array, if any."""
        match = _CLOSING_LINE.search(self._window, self._at, self._at + length)
        if match is None or self._indent is None or len(match.group(1)) > max(0, len(self._indent) - 1):
            return length
        return match.start() - self._at

    def _consume(self, element: RecordBuffer, length: int) -> None:
        element.add(self._window[self._at : self._at + length])
        self._advance(length)

    def _advance(self, length: int) -> None:
        self._offset += length
        self._at += length

    def _read_chunk(self) -> bool:
        chunk = self._stream.read(CHUNK)
        self._window = self._window[self._at :] + chunk
        self._at = 0
        return bool(chunk)


class _Brackets:
    """The state of a scan over an element: its depth, and whether it is inside a string."""

    def __init__(self, first: bytes) -> None:
        self._nested = first in (b"{", b"[")
        self._depth = 0
        self._string = False
        self._skip = 0  # bytes of the next chunk that belong to an escape

    def end_in(self, text: bytes, start: int, seen: int) -> int | None:
        """Return the length of the element at `start`, or None if `text` ends first; skip the first `seen` bytes."""
        position = start + seen + self._skip
        outside = _BRACKET if self._nested else _AFTER_PLAIN
        while (match := (_IN_STRING if self._string else outside).search(text, position)) is not None:
            token, position = match.group(), match.end()
            if self._string:
                self._string = token == b"\\"
                position += token == b"\\"
            elif token == b'"':
                self._string = True
            elif not self._nested:
                return max(1, match.start() - start)
            else:
                self._depth += 1 if token in b"{[" else -1
                if self._depth == 0:
                    return position - start
        self._skip = max(0, position - len(text))
        return None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
