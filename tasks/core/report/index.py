"""Index of all reports, and links between the reports of consecutive nights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.core.base.files import write_text
from tasks.core.base.templates import render
from tasks.core.report.history import REPORTS, page_name, read_history, release_made

INDEX = "index.html"
NEXT = "<!-- the next night -->"  # placeholder in every page for the link to the next night's report


def write_index(home: Path) -> Path:
    """Write `reports/index.html`, newest night first, with relative links; return its path."""
    rows = nights_of(home)
    pages = made_by(home, rows)
    nights = [
        {**row, "page": name if (home / REPORTS / name).exists() else "", "made_by": pages.get(row["release"], "")}
        for row in reversed(rows)
        for name in [page_name(row["began"])]
    ]
    path = home / REPORTS / INDEX
    write_text(path, render(Path(__file__).with_name("index.html.jinja"), nights=nights))
    return path


def nights_of(home: Path) -> list[dict[str, Any]]:
    """Return the rows of the history, oldest night first."""
    rows: list[dict[str, Any]] = sorted(read_history(home).to_pylist(), key=lambda row: row["began"])
    return rows


def made_by(home: Path, nights: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
    """Map each release to the report of the night in the history that made it, if that report exists."""
    made = {release: page_name(row["began"]) for row in nights if (release := release_made(row))}
    return {release: page for release, page in made.items() if (home / REPORTS / page).exists()}


def page_before(home: Path, nights: Sequence[Mapping[str, Any]], began: datetime) -> str:
    """Return the report of the last night in the history before `began`. Empty if there is none."""
    pages = [page_name(row["began"]) for row in nights if row["began"] < began]
    return next((page for page in reversed(pages) if (home / REPORTS / page).exists()), "")


def link_next(home: Path, before: str, page: str) -> None:
    """Add a link to `page` in the report `before` of the previous night."""
    path = home / REPORTS / before
    text = path.read_text(encoding="utf-8")
    if NEXT in text:
        write_text(path, text.replace(NEXT, f'<a href="{page}">next night →</a>', 1))
