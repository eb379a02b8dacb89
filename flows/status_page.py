"""The page of all collections, which the watchdog of `nightshift up` rewrites every few minutes."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from flows.local_prefect import prefect_folder, started

INTERVAL = 300.0  # seconds between two versions of the page


def status_page(home: Path) -> Path:
    """Return the path of the page: in the reports of the home that keeps the Prefect server."""
    return prefect_folder(home).parent / "reports" / "collections.html"


class StatusPage:
    """Rewrites the page in a process of its own, because a Milvus server may take minutes to answer."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.process: subprocess.Popen[bytes] | None = None
        self.due = 0.0  # on the monotonic clock

    def refresh(self) -> None:
        """Start to rewrite the page if it is due and several collections run; does not wait for it."""
        if (self.process is not None and self.process.poll() is None) or time.monotonic() < self.due:
            return
        known = started(self.home)
        if known is None or not known.collections:
            return
        self.due = time.monotonic() + INTERVAL
        files = [option for collection in known.collections for option in ("--settings", str(collection.settings_file))]
        command = [sys.executable, "-m", "flows.cli", "status", *files, "--html", str(status_page(self.home))]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)  # noqa: S603
