"""Takes one huge JSON array apart, element by element, in bounded memory, and past elements that are broken.

Elements are found by their brackets alone; whether one is JSON is for its reader to say. A string that reaches a
line's end has lost its closing quote, for JSON strings hold no line feeds: it is taken to end there. An element that
is no JSON and holds what looks like the start of the next one (a line feed, then the same indentation and a brace)
has lost a bracket, and is cut there. So in a file of many lines a damaged element costs itself and no other.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.core.base.errors import BadInput
from tasks.core.sources.lines import BOM, CHUNK, LONGEST, Growing, lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Raw

_VISIBLE = re.compile(rb"\S")
_START = re.compile(rb"[^\s,\]]")
_BRACKET = re.compile(rb'["{}\[\]]')
_AFTER_PLAIN = re.compile(rb'[",{}\[\]]')
_IN_STRING = re.compile(rb'["\\\n]')
_CLOSING_LINE = re.compile(rb"\n([ \t]*)\]\s*$")
_LONGEST_INDENT = 4096


def elements(place: Location, file: Stored) -> Iterator[Raw]:
    """Every element of the array that the file holds; numbers count from 1.

    Raises BadInput, naming the element reached, when the file cannot be read, holds no array, or ends within it.
    """
    number = 0
    with place.reading(file, lambda: f" past element {number}"), place.opened(file) as stream:
        scan = _Scan(stream)
        if not scan.enter():
            raise BadInput(
                f"{place.where(file)}: does not begin with [, as an array of questions does. "
                "Name it .jsonl if it has one JSON object a line."
            )
        for number, element in enumerate(scan.elements(), start=1):
            yield Raw(file.name, number, element.content(), element.fault())
        if not scan.closed:
            raise BadInput(
                f"{place.where(file)}: ends past element {number} without the ] of its array. An unknown number of "
                "questions is missing, so nothing of this source is used. Copy it again."
            )


def records(place: Location, file: Stored) -> Iterator[Raw]:
    """The elements of the array in a .json file, or the lines of any other. Raises BadInput as they do."""
    return elements(place, file) if file.bare.endswith(".json") else lines(place, file)


class _Scan:
    """A window on the stream: what was read and not yet given out, at most one element and one chunk."""

    def __init__(self, stream: Any) -> None:
        self.closed = False  # the last thing seen was the end of an array
        self._stream = stream
        self._window = b""
        self._at = 0  # place in the window up to which all was given out
        self._offset = 0  # of that place in the decompressed file
        self._indent: bytes | None = None  # what stands before elements that begin a line

    def enter(self) -> bool:
        """Pass the opening bracket; False when there is none."""
        self._more()
        if self._window.startswith(BOM):
            self._drop(len(BOM))
        while (found := _VISIBLE.search(self._window, self._at)) is None:
            self._drop(len(self._window) - self._at)
            if not self._more():
                return False
        self._drop(found.end() - self._at)
        return found.group() == b"["

    def elements(self) -> Iterator[Growing]:
        """The elements of the array, and whatever else stands between its brackets."""
        while self._to_start():
            yield self._element()

    def _to_start(self) -> bool:
        """Move to the next element; False at the end of the file."""
        before = b""
        while (found := _START.search(self._window, self._at)) is None:
            before = (before + self._pass(len(self._window)))[-_LONGEST_INDENT:]
            if not self._more():
                return False
        before += self._pass(found.start())
        feed, indent = before.rpartition(b"\n")[1:]
        if feed and not indent.strip():
            self._indent = indent
        self.closed = False
        return True

    def _pass(self, place: int) -> bytes:
        """Move to `place`, over what stands between elements."""
        between = self._window[self._at : place]
        self.closed = self.closed or b"]" in between
        self._drop(len(between))
        return between

    def _element(self) -> Growing:
        """The element that begins here, or what there is of it."""
        element = Growing(self._offset)
        brackets = _Brackets(self._window[self._at : self._at + 1])
        seen = 0  # bytes of the element that were looked at and not yet given out
        while (end := brackets.end_in(self._window, self._at, seen)) is None:
            seen = len(self._window) - self._at
            if not element.length and seen > LONGEST and (end := self._next_start(seen)) is not None:
                break
            if element.length or seen > LONGEST:
                self._give(element, seen)
                seen = 0
            if not self._more():
                end = seen if element.length else self._next_start(seen) or self._last_line(seen)
                break
        else:
            cut = None if element.length else self._next_start(end)
            end = end if cut is None or _is_json(self._window[self._at : self._at + end]) else cut
        self._give(element, end)
        return element

    def _next_start(self, length: int) -> int | None:
        """After how many of the next `length` bytes another element seems to begin."""
        if self._indent is None:
            return None
        found = self._window.find(b"\n" + self._indent + b"{", self._at + 1, self._at + length)
        return None if found < 0 else found - self._at

    def _last_line(self, length: int) -> int:
        """Where an element ends that never closes: before a last line that closes the array, if there is one."""
        found = _CLOSING_LINE.search(self._window, self._at, self._at + length)
        if found is None or self._indent is None or len(found.group(1)) > max(0, len(self._indent) - 1):
            return length
        return found.start() - self._at

    def _give(self, element: Growing, length: int) -> None:
        element.add(self._window[self._at : self._at + length])
        self._drop(length)

    def _drop(self, length: int) -> None:
        self._offset += length
        self._at += length

    def _more(self) -> bool:
        chunk = self._stream.read(CHUNK)
        self._window = self._window[self._at :] + chunk
        self._at = 0
        return bool(chunk)


class _Brackets:
    """How deep, and whether within a string, a scan over an element is."""

    def __init__(self, first: bytes) -> None:
        self._nested = first in (b"{", b"[")
        self._depth = 0
        self._string = False
        self._skip = 0  # bytes of the next part that an escape covers

    def end_in(self, text: bytes, start: int, seen: int) -> int | None:
        """The length of the element that begins at `start`, when it ends in `text`; `seen` bytes were looked at."""
        place = start + seen + self._skip
        outside = _BRACKET if self._nested else _AFTER_PLAIN
        while (found := (_IN_STRING if self._string else outside).search(text, place)) is not None:
            token, place = found.group(), found.end()
            if self._string:
                self._string = token == b"\\"
                place += token == b"\\"
            elif token == b'"':
                self._string = True
            elif not self._nested:
                return max(1, found.start() - start)
            else:
                self._depth += 1 if token in b"{[" else -1
                if self._depth == 0:
                    return place - start
        self._skip = max(0, place - len(text))
        return None


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
