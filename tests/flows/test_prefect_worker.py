"""The worker of `nightshift up` survives a log that cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FULL_DISK = Path("/dev/full")
RUN_A_NIGHT = """
import functools, runpy, sys
import anyio
import prefect.cli
from prefect.utilities.processutils import run_process

def run():  # what the worker does with the process of a flow run
    night = [sys.executable, "-c", "print('a line of the log\\\\n' * 20_000)"]
    sys.exit(anyio.run(functools.partial(run_process, stream_output=True), night).returncode)

prefect.cli.app = run
runpy.run_module(sys.argv[1], run_name="__main__")
"""


@pytest.mark.skipif(not FULL_DISK.exists(), reason="the system has no /dev/full")
def test_a_run_ends_as_usual_while_the_disk_of_the_log_is_full() -> None:
    with FULL_DISK.open("w") as log:
        command = [sys.executable, "-c", RUN_A_NIGHT, "flows.prefect_worker"]
        assert subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0
