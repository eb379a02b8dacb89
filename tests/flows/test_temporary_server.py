"""The temporary Prefect server of a night without a configured server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

NIGHT = """
import flows.environment
from flows.temporary_prefect import prefect_server
from prefect import flow, get_run_logger
from prefect.settings import PREFECT_API_URL

@flow
def night():
    print(PREFECT_API_URL.value(), flush=True)
    input()
    get_run_logger().info("the last line")

with prefect_server():
    night()
print(PREFECT_API_URL.value())
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_the_temporary_server_stops_with_its_night(killed: bool, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_PROFILES_PATH": str(tmp_path / "none.toml")}
    environment.pop("PREFECT_API_URL", None)
    environment["COLUMNS"] = "40"  # a narrow terminal must not wrap the output
    with subprocess.Popen(
        [sys.executable, "-c", NIGHT],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as night:
        assert night.stdout is not None
        url = night.stdout.readline().strip()
        assert url, night.communicate()
        assert answers(url)
        if killed:
            night.kill()
        else:
            out, errors = night.communicate("\n")
            assert out.strip() == "None"
            assert "Error" not in errors  # all requests reached the server
    deadline = time.monotonic() + 20
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(url)


def test_a_configured_server_is_used() -> None:
    code = """
import flows.environment
from flows.temporary_prefect import prefect_server
from prefect.settings import PREFECT_API_URL
with prefect_server():
    print(PREFECT_API_URL.value())
"""
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "http://127.0.0.1:9/api"


@pytest.mark.usefixtures("served")
def test_a_night_finishes_when_its_server_is_killed(environment: dict[str, str]) -> None:
    environment.pop("PREFECT_API_URL")
    environment["NIGHTSHIFT_MINING__SEED"] = "1"  # mines and trains again
    command = [sys.executable, "-m", "flows.cli", "run"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as night:
        assert night.stderr is not None
        before = ""
        while " training " not in before:
            line = night.stderr.readline()
            assert line, before
            before += line
        server = ["pgrep", "-P", str(night.pid), "-f", "prefect_server"]
        (number,) = subprocess.run(server, capture_output=True, text=True, check=True).stdout.split()
        os.kill(int(number), signal.SIGKILL)
        out, after = night.communicate(timeout=240)
    assert night.returncode == 0, after
    assert out.startswith("Promoted: release r0002-")
    assert after.count("The Prefect server does not answer") == 1
    assert not [word for word in ("Traceback", "Error", "ERROR", "WARNING") if word in after], after
