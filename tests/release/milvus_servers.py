"""Milvus servers for tests: `milvus-lite server`, and a real Milvus if it is installed.

The real Milvus is the package `milvus` (2.3.5) in a separate virtual environment. NIGHTSHIFT_TEST_MILVUS is the path of
its `milvus-server`, or the address of a running server. It uses etcd's port, so only one can run on a host.
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
    """A `milvus-lite server` on a folder. It can be killed and restarted on the same port."""

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
    """Start a `milvus-lite server`; yield its address."""
    server = LiteServer(folder)
    try:
        yield server.uri
    finally:
        server.kill()


@contextmanager
def real_server(folder, **environment):
    """Start a real Milvus with `environment` variables; yield its address. Skips the test if it is not installed."""
    if REAL is None:
        pytest.skip("no real Milvus: install milvus==2.3.5 in a separate venv, NIGHTSHIFT_TEST_MILVUS=…/milvus-server")
    if REAL.startswith("http"):
        if environment:
            pytest.skip("needs to start a Milvus server, but NIGHTSHIFT_TEST_MILVUS is the address of a running one")
        yield REAL
        return
    if ONE_AT_A_TIME.is_locked:
        pytest.skip("this process has a Milvus server already: run this file separately")
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
            process.send_signal(signal.SIGINT)  # SIGTERM would not stop its child process
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
