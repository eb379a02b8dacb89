"""A real Prefect server for the tests of this folder, and the command as a person runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prefect_servers import serving_prefect

Environment = dict[str, str]


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of our own on a free port of the loopback; its API's URL."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture
def environment(prefect_server: str, tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Environment:
    """The environment of a night on a small collection with a small encoder."""
    return {
        **os.environ,
        "PREFECT_API_URL": prefect_server,
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "NIGHTSHIFT_HOME": str(tmp_path / "home"),
        "NIGHTSHIFT_DATA__FORMAT": "beir",
        "NIGHTSHIFT_DATA__PATH": str(collection(more=40)),
        "NIGHTSHIFT_ENCODER__MODEL": str(tiny_model),
        "NIGHTSHIFT_ENCODER__PASSAGE_TOKENS": "24",
        "NIGHTSHIFT_MINING__HEAP_MB": "256",
        "NIGHTSHIFT_TRAINING__EPOCHS": "8",
        "NIGHTSHIFT_TRAINING__BATCH_SIZE": "12",
        "NIGHTSHIFT_TRAINING__LEARNING_RATE": "0.003",
        "NIGHTSHIFT_GATE__BM25_FLOOR": "false",
        "NIGHTSHIFT_GATE__MARGIN": "0.5",
        "NIGHTSHIFT_MILVUS__BATCH_ROWS": "20",
    }


@pytest.fixture
def nightshift(environment: Environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command with some arguments; more environment by keyword."""

    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.cli", *arguments]
        return subprocess.run(command, env={**environment, **more}, capture_output=True, text=True, timeout=300)

    return run
