"""Markdown for artifacts, with every text of the data shown as it is.

Artifacts are Markdown and no Prefect tables: the cells of a table are Markdown in one of Prefect's two user interfaces
and plain text in the other, so no way to write a text suits both.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

WIDEST = 120  # characters of a text of the data
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_ADDRESS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)")  # where an invisible word joiner keeps a link from forming

Cell = str | int | float | None


def escape(text: str) -> str:
    """Write a text on one line, so that no character of it is markup, and no address in it a link."""
    return _PUNCTUATION.sub(r"\\\1", _ADDRESS.sub("\u2060", " ".join(text.split())))


def shorten(text: str) -> str:
    """Cut a text of the data to its beginning, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[:WIDEST] + " …"


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """The lines of a table; columns of numbers are aligned to the right. Without rows: nothing."""
    if not rows:
        return []
    numeric = [not any(isinstance(row[place], str) for row in rows) for place in range(len(columns))]
    lines = [_row(map(escape, columns)), _row("---:" if right else "---" for right in numeric)]
    return [*lines, *(_row(map(_cell, row)) for row in rows), ""]


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape(value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
