"""Markdown for Prefect artifacts, with all text from the data escaped.

Prefect's table artifacts are not used: one of Prefect's two UIs renders their cells as Markdown and the other as plain
text, so no escaping is right for both.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

WIDEST = 120  # characters shown of a text from the data
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
_ADDRESS = re.compile(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?=@)")  # an invisible word joiner here prevents automatic links

Cell = str | int | float | None


def escape(text: str) -> str:
    """Return a text on one line, with Markdown characters escaped and automatic links prevented."""
    return _PUNCTUATION.sub(r"\\\1", _ADDRESS.sub("\u2060", " ".join(text.split())))


def shorten(text: str) -> str:
    """Return the first `WIDEST` characters of a text, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= WIDEST else line[:WIDEST] + " …"


def table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[str]:
    """Return the lines of a Markdown table, with numeric columns aligned right. Empty without rows."""
    if not rows:
        return []
    numeric = [not any(isinstance(row[place], str) for row in rows) for place in range(len(columns))]
    lines = [_row(map(escape, columns)), _row("---:" if right else "---" for right in numeric)]
    return [*lines, *(_row(map(_cell, row)) for row in rows), ""]


def bar(value: float, line: float, width: int = 12) -> str:
    """Draw a bar of block characters: `value` from 1 to `line` on a log scale, full at the line."""
    filled = round(width * min(1.0, math.log(max(1.0, value)) / math.log(line)))
    return "█" * filled + "░" * (width - filled)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(value: Cell) -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return escape(value)
    return f"{value:.4f}" if isinstance(value, float) else f"{value:,}"
