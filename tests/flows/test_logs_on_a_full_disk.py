"""The worker and the watchdog of `nightshift up` survive a log that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL_DISK = Path("/dev/full")
RUN_A_NIGHT = """
import functools, sys
import anyio
import prefect.cli
from prefect.utilities.processutils import run_process
from flows import prefect_worker

def run():  # what the worker does with the process of a flow run
    night = [sys.executable, "-c", "print('a line of the log\\\\n' * 20_000)"]
    sys.exit(anyio.run(functools.partial(run_process, stream_output=True), night).returncode)

prefect.cli.app = run
prefect_worker.main()
"""

pytestmark = pytest.mark.skipif(not FULL_DISK.exists(), reason="the system has no /dev/full")


def exit_status(*arguments: str) -> int:
    """Run Python with its output on a full disk; return its exit status."""
    with FULL_DISK.open("w") as log:
        return subprocess.run([sys.executable, *arguments], stdout=log, stderr=log, check=False).returncode


def test_a_run_of_the_worker_ends_as_usual() -> None:
    assert exit_status("-c", RUN_A_NIGHT) == 0


def test_the_watchdog_ends_only_when_there_is_nothing_to_watch(tmp_path: Path) -> None:
    assert exit_status("-m", "flows.watchdog", str(tmp_path), "600") == 0
