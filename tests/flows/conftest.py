"""A real Prefect server and the `nightshift` command, for the tests in this folder."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from operated_server import Operated, operating, receiving_alerts
from prefect_servers import free_port, serving_prefect
from things_and_traits import write_collection
from warm_commands import run_command

Environment = dict[str, str]
MEMORY = 80 * 2**20  # object store of a Ray host in bytes; the minimum is 75 MiB


@pytest.fixture(scope="session")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server on a free local port; yield the URL of its API."""
    with serving_prefect(tmp_path_factory.mktemp("prefect")) as url:
        yield url


@pytest.fixture
def client_port() -> int:
    """Return the client port of the head of `cluster`: ray://127.0.0.1:PORT."""
    return free_port()


@pytest.fixture
def cluster(client_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Start a Ray cluster: a head without shards, and two hosts with room for one shard each."""
    Cluster = pytest.importorskip("ray.cluster_utils").Cluster

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    ray_cluster = Cluster()
    head = {"include_dashboard": False, "ray_client_server_port": client_port}
    ray_cluster.add_node(num_cpus=0, object_store_memory=MEMORY, **head)
    for _ in range(2):  # simulated GPUs: Ray does not check
        ray_cluster.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)
    yield ray_cluster
    ray_cluster.shutdown()


@pytest.fixture
def environment(prefect_server: str, tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Environment:
    """Return the environment of a night on a small collection with a small encoder."""
    return environment_in(tmp_path, collection(more=40), tiny_model, prefect_server)


@pytest.fixture(scope="session")
def first_night(prefect_server: str, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a first night that promotes its release; return the folder with its collection and home."""
    folder = tmp_path_factory.mktemp("first-night")
    source = write_collection(folder / "source", more=40)
    done = run_command(environment_in(folder, source, tiny_model, prefect_server), "run")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Promoted: release r0001-")
    return folder


@pytest.fixture
def served(environment: Environment, first_night: Path) -> None:
    """Copy collection and home of `first_night`."""
    shutil.copytree(first_night / "home", environment["NIGHTSHIFT_HOME"])


@pytest.fixture
def nightshift(environment: Environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs the command; keyword arguments set environment variables."""
    return lambda *arguments, **more: run_command({**environment, **more}, *arguments)


@pytest.fixture
def alerts() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """Start a webhook; yield its address and the list of received alerts."""
    with receiving_alerts() as webhook:
        yield webhook


@pytest.fixture
def operated(
    nightshift: Callable[..., subprocess.CompletedProcess[str]],
    environment: Environment,
    alerts: tuple[str, list[dict[str, str]]],
) -> Callable[..., AbstractContextManager[Operated]]:
    """Return a function that runs `nightshift up` on the home of `environment`; alerts go to `alerts`."""
    environment.pop("PREFECT_API_URL")
    environment["NIGHTSHIFT_ALERT_URL"] = alerts[0]
    return lambda *arguments: operating(nightshift, Path(environment["NIGHTSHIFT_HOME"]), *arguments)


def environment_in(folder: Path, source: Path, model: Path, server: str) -> Environment:
    return {
        **os.environ,
        "PREFECT_API_URL": server,
        "PREFECT_HOME": str(folder / "prefect"),
        "NIGHTSHIFT_HOME": str(folder / "home"),
        "NIGHTSHIFT_DATA__FORMAT": "beir",
        "NIGHTSHIFT_DATA__PATH": str(source),
        "NIGHTSHIFT_ENCODER__MODEL": str(model),
        "NIGHTSHIFT_ENCODER__PASSAGE_TOKENS": "24",
        "NIGHTSHIFT_MINING__HEAP_MB": "256",
        "NIGHTSHIFT_TRAINING__EPOCHS": "8",
        "NIGHTSHIFT_TRAINING__BATCH_SIZE": "12",
        "NIGHTSHIFT_TRAINING__LEARNING_RATE": "0.003",
        "NIGHTSHIFT_GATE__BM25_FLOOR": "false",
        "NIGHTSHIFT_GATE__MARGIN": "0.5",
        "NIGHTSHIFT_MILVUS__BATCH_ROWS": "20",
    }
