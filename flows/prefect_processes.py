"""Start, check, and end the processes of a Prefect server on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from flows.server_log import mark_start

ENDS_WITHIN = 30  # seconds between SIGTERM and SIGKILL


def spawn(log: Path, environment: Mapping[str, str], module: str, *arguments: str) -> int:
    """Start `python -m module …` as its own session, so that it outlives the terminal; return its process id."""
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
    """Return whether this process runs and is one of ours: the system uses process ids again."""
    if process <= 0:
        return False
    command = ["ps", "-ww", "-o", "stat=,command=", "-p", str(process)]  # -ww: else cut at $COLUMNS, the name too
    shown = subprocess.run(command, capture_output=True, text=True).stdout.lstrip()  # noqa: S603
    return ("prefect" in shown or "flows.watchdog" in shown) and not shown.startswith("Z")


def end(process: int) -> None:
    """End this process and its group, first with SIGTERM."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        if not lives(process):
            return
        try:
            os.killpg(process, how)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + ENDS_WITHIN
        while lives(process) and time.monotonic() < deadline:
            time.sleep(0.1)
