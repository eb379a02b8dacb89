"""The logs of the Prefect server and the worker: the errors since their last start."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

STARTED = "--- nightshift started this process at "
# Prefect's own format, uvicorn's, and what Python prints for an exception that nobody caught.
ERROR = re.compile(
    r"^(?:(?P<time>\d\d:\d\d:\d\d)\S* \| )?(?:ERROR|CRITICAL)\s*[|:]|^Traceback \(most recent call last\)"
)
CHANGING = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27,}|0x[0-9a-f]+|\d+")  # ids, addresses, and numbers


class LogError(NamedTuple):
    """One kind of error line: the newest line of its kind, how many there are, and the time in the newest."""

    line: str
    lines: int
    time: str

    def __str__(self) -> str:
        last = f", last at {self.time}" if self.time else ""
        return f"{self.lines} × {self.line[:200]}{last}"


def mark_start(log: Path) -> None:
    """Append a line that separates what a new process logs from what the one before it logged."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{STARTED}{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")


def lines_since_start(log: Path) -> list[str]:
    """Read what the running process logged; empty when there is no log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    starts = [number for number, line in enumerate(lines) if line.startswith(STARTED)]
    return lines[starts[-1] + 1 :] if starts else lines


def read_errors(log: Path) -> list[LogError]:
    """Group the error lines since the last start by their text without ids and numbers, most frequent first."""
    kinds: dict[str, LogError] = {}
    for line in lines_since_start(log):
        match = ERROR.match(line)
        if match is None:
            continue
        kind = CHANGING.sub("#", line)
        lines = kinds[kind].lines if kind in kinds else 0
        kinds[kind] = LogError(line, lines + 1, match["time"] or "")
    return sorted(kinds.values(), key=lambda error: -error.lines)
