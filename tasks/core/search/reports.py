"""The reports of nights over HTTP: read-only, and below the paths that their own links use."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse
from starlette.exceptions import HTTPException

# The files below home that are served. No name holds a slash or begins with a dot.
_FILES = re.compile(
    r"reports/[A-Za-z0-9-]+\.html|(?:ingests|refused)/[A-Za-z0-9-]+/(?:contracts\.html|quarantine\.parquet)"
)
_FOLDERS = ("/reports/", "/ingests/", "/refused/")


def is_report(path: str) -> bool:
    """Whether a path of the service is one of a report."""
    return path.startswith(_FOLDERS)


def add_reports(app: FastAPI, home: Path) -> None:
    """Serve the reports below `home` at the paths of their files; `/reports/` is the list of all."""
    for folder in _FOLDERS:
        app.add_api_route(f"{folder}{{name:path}}", _route(home, folder), include_in_schema=False)


def _route(home: Path, folder: str) -> Callable[[str], FileResponse]:
    def route(name: str) -> FileResponse:
        return _file(home, f"{folder}{name or 'index.html'}".lstrip("/"))

    return route


def _file(home: Path, path: str) -> FileResponse:
    """The file at `path` below `home`. Raises HTTPException (404) when it is no report, or not there."""
    file = home / path
    if not _FILES.fullmatch(path) or not file.is_file():
        raise HTTPException(404, "no report has this address; /reports/ lists those there are")
    return FileResponse(file)
