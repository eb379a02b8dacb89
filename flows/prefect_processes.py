"""Start, check, and stop the processes of a local Prefect server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flows.server_log import mark_start

TERMINATION_TIMEOUT = 30  # seconds between SIGTERM and SIGKILL


def spawn(log: Path, environment: Mapping[str, str], module: str, *arguments: str) -> int:
    """Start `python -m module …` in a new session, which outlives the terminal; return its process id."""
    mark_start(log)
    with log.open("ab") as out:
        return subprocess.Popen(  # noqa: S603 (our own command)
            [sys.executable, "-m", module, *arguments],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        ).pid


def lives(process: int) -> bool:
    """Return whether this process runs and belongs to Nightshift. The system may reuse process ids."""
    if process <= 0:
        return False
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(process)]  # -ww: no cut at $COLUMNS
    shown = subprocess.run(command, capture_output=True, text=True).stdout.lstrip()  # noqa: S603
    return ("prefect" in shown or "flows.watchdog" in shown) and not shown.startswith("Z")


def end(process: int) -> None:
    """Stop this process and its group with SIGTERM, then SIGKILL."""
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        if not lives(process):
            return
        try:
            os.killpg(process, signal_number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + TERMINATION_TIMEOUT
        while lives(process) and time.monotonic() < deadline:
            time.sleep(0.1)
