"""PostgreSQL servers for tests. Needs PostgreSQL: `apt-get install postgresql`, or set NIGHTSHIFT_TEST_POSTGRES.

NIGHTSHIFT_TEST_POSTGRES names the folder of `initdb` and `postgres` where they are not on the path.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from milvus_servers import free_port, wait_for

NAME, PASSWORD = "nightshift", "Sesame 42/&"  # needs escaping in a URL


@contextmanager
def postgres_server(folder):
    """Start PostgreSQL; yield its address and password. Skips the test when PostgreSQL is not installed."""
    initdb, postgres = _program("initdb"), _program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("no PostgreSQL: apt-get install postgresql, or NIGHTSHIFT_TEST_POSTGRES=/usr/lib/postgresql/…/bin")
    if find_spec("psycopg") is None:
        pytest.skip("no psycopg: pip install 'nightshift[postgres]'")
    folder.mkdir()
    secret = folder / "password"
    secret.write_text(PASSWORD)
    user = "nobody" if os.getuid() == 0 else None  # PostgreSQL will not run as root
    if user:
        folder.parent.chmod(0o755)
        for path in (folder, secret):
            shutil.chown(path, user)
    quiet = {"user": user, "cwd": folder, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    made = ["-D", str(folder / "data"), "-U", NAME, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "-N"]
    subprocess.run([initdb, *made], check=True, **quiet)
    port = free_port()
    options = ["-h", "127.0.0.1", "-p", str(port), "-c", "unix_socket_directories=", "-c", "fsync=off"]
    process = subprocess.Popen([postgres, "-D", str(folder / "data"), *options], **quiet)
    address = f"postgresql://{NAME}@127.0.0.1:{port}/postgres"
    try:
        wait_for(lambda: _ask(address), process, 60)
        yield address, PASSWORD
    finally:
        process.terminate()
        process.wait(timeout=60)


def _ask(address):
    import psycopg

    try:
        psycopg.connect(address, password=PASSWORD).close()
    except psycopg.OperationalError as error:
        raise ConnectionError from error


def _program(name):
    folder = os.environ.get("NIGHTSHIFT_TEST_POSTGRES")
    return str(Path(folder) / name) if folder else shutil.which(name)
