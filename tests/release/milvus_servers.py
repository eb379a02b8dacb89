"""Milvus servers for tests: `milvus-lite server`, and a real one where its wheel is installed.

The real one is the package `milvus` (2.3.5), in a virtual environment of its own: NIGHTSHIFT_TEST_MILVUS names its
`milvus-server`, or the address of a server that runs already. It takes etcd's port, so a host runs one at a time.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest
from filelock import FileLock

REAL = os.environ.get("NIGHTSHIFT_TEST_MILVUS") or shutil.which("milvus-server")
ONE_AT_A_TIME = FileLock(Path(tempfile.gettempdir()) / "nightshift-test-milvus.lock")
REAL_PORT, REAL_HEALTH = 19530, "http://127.0.0.1:9091/healthz"


class LiteServer:
    """`milvus-lite server` over a folder; it can be killed and started again on its port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "milvus_lite", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--data-dir", str(self.folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for(lambda: socket.create_connection(("127.0.0.1", self.port), timeout=1).close(), self.process, 60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def lite_server(folder):
    """The address of a `milvus-lite server`."""
    server = LiteServer(folder)
    try:
        yield server.uri
    finally:
        server.kill()


@contextmanager
def real_server(folder, **environment):
    """The address of a real Milvus server, which may keep its data elsewhere; skips where there is none to start."""
    if REAL is None:
        pytest.skip(
            "no real Milvus: install milvus==2.3.5 in a venv of its own, NIGHTSHIFT_TEST_MILVUS=…/milvus-server"
        )
    if REAL.startswith("http"):
        if environment:
            pytest.skip("needs a Milvus server of its own, and NIGHTSHIFT_TEST_MILVUS names one that runs")
        yield REAL
        return
    if ONE_AT_A_TIME.is_locked:
        pytest.skip("this process has a Milvus server already: run this file by itself")
    with ONE_AT_A_TIME:
        process = subprocess.Popen(
            [REAL, "--data", str(folder), "--extra-config", "log.level=warn"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        try:
            wait_for(lambda: urllib.request.urlopen(REAL_HEALTH, timeout=1), process, 120)
            yield f"http://127.0.0.1:{REAL_PORT}"
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM would leave its child behind
            process.wait(timeout=60)


def wait_for(answers, process, seconds):
    end = time.monotonic() + seconds
    while True:
        try:
            return answers()
        except OSError:
            if process.poll() is not None or time.monotonic() > end:
                raise
            time.sleep(0.05)


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]
