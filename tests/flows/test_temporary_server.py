"""The server that a night brings along where none is configured."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

NIGHT = """
import flows.environment
from flows.temporary_prefect import a_server
from prefect.settings import PREFECT_API_URL
with a_server():
    print(PREFECT_API_URL.value(), flush=True)
    input()
print(PREFECT_API_URL.value())
"""


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=10):
            return True
    except (urllib.error.URLError, ConnectionError):
        return False


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "ended"])
def test_it_ends_with_its_night(killed: bool, tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(tmp_path), "PREFECT_PROFILES_PATH": str(tmp_path / "none.toml")}
    environment.pop("PREFECT_API_URL", None)
    with subprocess.Popen(
        [sys.executable, "-c", NIGHT], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as night:
        assert night.stdout is not None
        url = night.stdout.readline().strip()
        assert answers(url)
        if killed:
            night.kill()
        else:
            assert night.communicate("\n")[0].strip() == "None"
    deadline = time.monotonic() + 20
    while answers(url) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not answers(url)


def test_one_that_is_configured_is_taken() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api"}
    done = subprocess.run(
        [sys.executable, "-c", NIGHT], env=environment, input="\n", capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["http://127.0.0.1:9/api"] * 2
