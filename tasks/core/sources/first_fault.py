"""The first refused row of a table: its place, its beginning, and a guess at the cause."""

from __future__ import annotations

import re
from typing import NamedTuple

from tasks.core.sources.combined import CLICKS

_WIDTH = 160  # characters of a record in a message
_HEAD = 2048  # characters of a record in which a cause is searched
# (pattern of the beginning of a file or record, in which bytes that are not UTF-8 are written \xNN; the cause, phrased
# to follow the word "it").
_CAUSES = [
    (r"\\xff\\xfe|\\xfe\\xff|[^\0]\0[^\0]\0|\0[^\0]\0[^\0]", "looks like UTF-16; save it as UTF-8"),
    (r"\x1f\\x8b", "looks like a gzip file; give its name the ending .gz"),
    (r"\(\\xb5/\\xfd", "looks like a Zstandard file; give its name the ending .zst"),
    (r"PK\x03\x04", "looks like a zip archive; unpack it"),
    (r"BZh|\\xfd7zXZ|7z\\xbc\\xaf", "looks like a compressed file of an unsupported kind; unpack it"),
    (r"version https://git-lfs", "looks like a Git-LFS pointer, not the file itself; fetch it with git lfs pull"),
    (
        r"\s*<(!doctype|html|head|body)",
        "looks like a web page, such as an error page; download the file again",
    ),
    (r"\s*<(\?xml|error)", "looks like XML, such as the error of an object store; download the file again"),
    (r"PAR1", "looks like a Parquet file; give its name the ending .parquet"),
    (r"ARROW1|\\xff\\xff\\xff\\xff", "looks like an Arrow file; give its name the ending .arrow"),
    (r"%PDF|SQLite format 3|\\x89PNG|\\x80\x04", "looks like a binary file of another kind"),
    (r"\s*\{'", "looks like a Python dictionary; write it as JSON, with json.dumps"),
    (r"\s*\[\s*$|\s*\{\s*$", "looks like JSON over several lines; write one object on each line"),
    (r"\s*\[\s*\{", "looks like one JSON array; write one object on each line"),
    (
        r'\s*\{(?=.*"query")(?=.*"(clicked|clicks?|shown|impressions?)")',
        "looks like a click log; add it as a source with format clicks, or name its file clicks….jsonl",
    ),
    (r"(?s:.*[A-Za-z]\\x[c-f][0-9a-f]([a-z]|\W))", "looks like Latin-1 or Windows-1252; save it as UTF-8"),
]
_COMPILED_CAUSES = [(re.compile(pattern, re.IGNORECASE), cause) for pattern, cause in _CAUSES]


class FirstFault(NamedTuple):
    """A refused row."""

    table: str
    file: str
    line: int
    reason: str
    record: str

    def __str__(self) -> str:
        """Return the place, the reason, the beginning of the record, and a guess at the cause."""
        guess = "" if self.table == CLICKS else guess_cause(self.record)
        return f"{self.file}:{self.line}: {self.reason}: {shorten(self.record)}{f' (it {guess})' if guess else ''}"


def shorten(text: str, width: int = _WIDTH) -> str:
    r"""Return the beginning of a text on one line, with control and format characters escaped, such as \x1b."""
    head = text[: width + 1]
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in head)
    return shown if len(shown) <= width else f"{shown[:width]} …"


def guess_cause(record: bytes | str) -> str:
    """Guess what is wrong with a record or file from its beginning: a phrase to follow "it"; empty when unknown."""
    text = record[:_HEAD].decode("utf-8", "backslashreplace") if isinstance(record, bytes) else record[:_HEAD]
    return next((cause for pattern, cause in _COMPILED_CAUSES if pattern.match(text)), "")
