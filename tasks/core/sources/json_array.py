"""Splits a large JSON array into its elements in bounded memory.

Each element keeps its bytes, so that a damaged value (such as invalid UTF-8) is quarantined alone. Damaged JSON stops
the night: without its brackets and quotes, nobody knows which questions are missing. An element may have 16 Mi
characters.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.core.base.errors import BadInput
from tasks.core.sources.first_fault import shorten
from tasks.core.sources.lines import CHUNK, LONGEST, lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Raw

_BETWEEN = re.compile(r"[ \t\r\n,]*")
_NEXT_STEP = (
    "Questions may be missing, so nothing of this source is used. Copy the file again, or write one JSON object per "
    "line to a .jsonl file, where damage affects only its own line."
)


def elements(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the elements of the JSON array in a file, numbered from 1.

    Raises BadInput, with the number and line of the element, when the file is unreadable, is not an array, is not
    JSON, or is cut off, or when an element is too long.
    """
    number, where = 0, location.where(file)
    with location.reading(file, lambda: f" past element {number}"), location.opened(file) as stream:
        window = _Window(stream)
        if window.first() != "[":
            raise BadInput(
                f"{where}: does not begin with [, as an array of questions does. "
                "Rename it to .jsonl if it has one JSON object per line."
            )
        window.skip()
        while (first := window.first()) not in ("]", ""):
            line = window.line
            try:
                content = window.element()
            except (ValueError, RecursionError) as error:
                raise BadInput(
                    f"{where}:{line}: element {number + 1} is not JSON, is cut off, or has more than {LONGEST} "
                    f"characters ({getattr(error, 'msg', error)}): {shorten(window.head())}. {_NEXT_STEP}"
                ) from error
            number += 1
            yield Raw(file.name, number, content)
        window.skip()
        if not first or window.first():
            problem = "continues after" if first else "ends without"
            raise BadInput(f"{where}:{window.line}: {problem} the ] of its array (element {number}). {_NEXT_STEP}")


def records(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the elements of the array in a .json file, or the lines of any other file. Raises BadInput like both."""
    return elements(location, file) if file.bare.endswith(".json") else lines(location, file)


class _Window:
    """The part of a file that begins at the next element. Bytes that are not UTF-8 are kept as surrogates."""

    def __init__(self, stream: Any) -> None:
        self.line = 1
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape").decode
        self._parse = json.JSONDecoder().raw_decode
        self._text = ""
        self._at = 0  # position in the text; everything before it was returned
        self._complete = False  # the text reaches the end of the file

    def first(self) -> str:
        """Move to the next character that is neither white space nor a comma. Return "" at the end of the file."""
        while True:
            match = _BETWEEN.match(self._text, self._at)
            assert match  # the pattern also matches an empty text
            self.skip(len(match.group()))
            if self._at < len(self._text) or self._complete:
                return self._text[self._at : self._at + 1]
            self._read(CHUNK)

    def skip(self, length: int = 1) -> None:
        """Move by `length` characters."""
        self.line += self._text.count("\n", self._at, self._at + length)
        self._at += length

    def head(self) -> str:
        r"""Return the beginning of the element, with bytes that are not UTF-8 as \xNN."""
        head = self._text[self._at : self._at + CHUNK]
        return head.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

    def element(self) -> bytes:
        """Return the element that begins here, and move past it.

        Raises:
            ValueError: it is not JSON, ends with the file, or has more than `LONGEST` characters.
            RecursionError: it is nested too deeply.
        """
        while True:
            try:
                end = self._parse(self._text, self._at)[1]
                if end < len(self._text) or self._complete:  # else a number may continue
                    break
            except ValueError:
                if self._complete or len(self._text) - self._at > LONGEST:
                    raise
            length = len(self._text) - self._at
            self._read(min(length, LONGEST - length))  # doubling keeps the cost of parsing an element again linear
        content = self._text[self._at : end].encode("utf-8", "surrogateescape")
        self.skip(end - self._at)
        return content

    def _read(self, length: int) -> None:
        """Drop what was returned, and read `length` more bytes, at least a chunk."""
        chunk = self._stream.read(max(length, CHUNK))
        self._complete = not chunk
        self._text = self._text[self._at :] + self._decode(chunk, final=self._complete)
        self._at = 0
