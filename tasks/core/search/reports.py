"""Serve night reports over HTTP, read-only, at the paths that their links use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

# Files below home that may be served. Names contain no slash and do not begin with a dot.
_FILES = re.compile(
    r"reports/[A-Za-z0-9-]+\.html|(?:ingests|refused)/[A-Za-z0-9-]+/(?:contracts\.html|quarantine\.parquet)"
)
_FOLDERS = ("/reports/", "/ingests/", "/refused/")


def is_report(path: str) -> bool:
    """Return whether a URL path belongs to a report."""
    return path.startswith(_FOLDERS)


def add_reports(app: FastAPI, home: Path) -> None:
    """Serve the reports below `home` at the paths of their files; `/reports/` lists all reports."""
    for folder in _FOLDERS:
        app.add_api_route(f"{folder}{{name:path}}", _route(home, folder), include_in_schema=False)


def _route(home: Path, folder: str) -> Callable[[str], FileResponse]:
    def route(name: str) -> FileResponse:
        return _file(home, f"{folder}{name or 'index.html'}".lstrip("/"))

    return route


def _file(home: Path, path: str) -> FileResponse:
    """Return the file at `path` below `home`. Raises HTTPException (404) if it is no report or does not exist."""
    file = home / path
    if not _FILES.fullmatch(path) or not file.is_file():
        raise HTTPException(404, "there is no report at this address; /reports/ lists all reports")
    return FileResponse(file)
