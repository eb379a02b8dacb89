"""Reads text files that users write: settings, golden queries, and queries to shadow."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tasks.core.base.errors import BadInput, describe

_MARKS = (  # longest first, because the UTF-32 little-endian mark starts with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def read_side_file(file: Path, purpose: str) -> str:
    """Return the text of a file in UTF-8, or in UTF-16 or UTF-32 with a byte order mark. The mark is removed.

    Args:
        file: The file.
        purpose: Description of the file for errors, such as "golden queries".

    Raises:
        BadInput: the file cannot be opened or decoded; the message gives the line.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise BadInput(f"{purpose} {describe(error)}") from error
    encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
    if encoding.startswith("utf-8") and (nul := content.find(b"\0")) >= 0:
        raise BadInput(
            f"{purpose} {file}, line {_line(content, nul)}: a NUL character. Is this UTF-16 without a byte order mark? "
            "Save the file as UTF-8."
        )
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{purpose} {file}, line {_line(content, error.start)}: not {encoding.removesuffix('-sig').upper()} "
            f"({error.reason}). Save the file as UTF-8."
        ) from error


def _line(content: bytes, offset: int) -> int:
    return content.count(b"\n", 0, offset) + 1


def numbered_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line) for every line that is not blank, without surrounding white space.

    Only a line feed ends a line, because JSON strings may contain any other separator.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if stripped := line.strip():
            yield number, stripped


def parse_object(line: str) -> dict[str, Any]:
    """Return the JSON object in a line.

    Raises:
        ValueError: the line is not a JSON object; the message gives the reason.
    """
    try:
        value = json.loads(line)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value
