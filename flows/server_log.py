"""Logs of the Prefect server, worker, and watchdog: their start, their errors since then, and a full disk."""

from __future__ import annotations

import io
import re
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

STARTED = "--- nightshift started this process at "
# Error lines of Prefect, of uvicorn, and of uncaught Python exceptions.
ERROR = re.compile(
    r"^(?:(?P<time>\d\d:\d\d:\d\d)\S* \| )?(?:ERROR|CRITICAL)\s*[|:]|^Traceback \(most recent call last\)"
)
VARIABLE_PARTS = re.compile(r"[0-9a-f]{8}-[0-9a-f-]{27,}|0x[0-9a-f]+|\d+")  # ids, addresses, and numbers


class LogError(NamedTuple):
    """A group of similar error lines: the newest line, the number of lines, and the time of the newest."""

    line: str
    lines: int
    time: str

    def __str__(self) -> str:
        last = f", last at {self.time}" if self.time else ""
        return f"{self.lines} × {self.line[:200]}{last}"


class LossyLog(io.TextIOWrapper):
    """A log file that loses text while it cannot be written."""

    def write(self, text: str) -> int:
        """Write the text, or lose it; return its length."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or try again next time."""
        with suppress(OSError):
            super().flush()


def outlive_full_disk() -> None:
    """Make standard output and error of this process lose text, instead of raising, while it cannot be written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, LossyLog(stream.buffer, encoding="utf-8", errors="replace", line_buffering=True))


def mark_start(log: Path) -> None:
    """Append a line that marks the start of a new process in the log."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"{STARTED}{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n")


def lines_since_start(log: Path) -> list[str]:
    """Read the lines that the current process logged. Empty when there is no log."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return []
    starts = [number for number, line in enumerate(lines) if line.startswith(STARTED)]
    return lines[starts[-1] + 1 :] if starts else lines


def read_errors(log: Path) -> list[LogError]:
    """Group error lines since the last start, ignoring ids and numbers; most frequent first."""
    kinds: dict[str, LogError] = {}
    for line in lines_since_start(log):
        match = ERROR.match(line)
        if match is None:
            continue
        kind = VARIABLE_PARTS.sub("#", line)
        lines = kinds[kind].lines if kind in kinds else 0
        kinds[kind] = LogError(line, lines + 1, match["time"] or "")
    return sorted(kinds.values(), key=lambda error: -error.lines)
