"""Whole nights over a real Ray cluster of several hosts (raylets), with a real Prefect server on a real PostgreSQL."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
import pytest
from prefect_servers import serving_prefect

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))
from postgres_servers import postgres_server

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
pytest.importorskip("prefect_ray")

Environment = dict[str, str]
SHARDS = 12
MEMORY = 80 * 2**20  # bytes that a host shares; Ray takes no less than 75 MiB


@pytest.fixture(scope="module")
def prefect_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prefect's API; its database is PostgreSQL."""
    with TemporaryDirectory() as folder, postgres_server(Path(folder) / "postgres") as (address, password):
        url = address.replace("postgresql://", "postgresql+asyncpg://").replace("@", f":{quote(password, safe='')}@")
        home = tmp_path_factory.mktemp("prefect")
        with serving_prefect(home, PREFECT_API_DATABASE_CONNECTION_URL=url) as api:
            yield api


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A Ray cluster: a head that works on no shard, and two hosts with room for one each."""
    from ray.cluster_utils import Cluster

    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1"}.items():
        monkeypatch.setenv(name, value)
    made = Cluster()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        made.client_port = free.getsockname()[1]
    made.add_node(
        num_cpus=0, include_dashboard=False, object_store_memory=MEMORY, ray_client_server_port=made.client_port
    )
    for _ in range(2):  # GPUs in name only: no one looks whether there is one
        made.add_node(num_cpus=1, num_gpus=1, object_store_memory=MEMORY)
    yield made
    made.shutdown()


@pytest.fixture
def on_ray(environment: Environment, cluster: Any) -> Environment:
    """The environment of a night whose shards go to the cluster."""
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
        "NIGHTSHIFT_EMBEDDING__SHARDS": str(SHARDS),
        "NIGHTSHIFT_MINING__SHARDS": "3",
        "NIGHTSHIFT_COMPUTE__ENGINE": "ray",
        "NIGHTSHIFT_COMPUTE__ADDRESS": cluster.address,
        "NIGHTSHIFT_COMPUTE__GPUS": "1",
        "NIGHTSHIFT_COMPUTE__MEMORY_GB": "0.25",
    }


def command(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def night(environment: Environment) -> None:
    done = subprocess.run(command("-m", "flows.cli", "run"), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Promoted"), done.stdout


def files(home: str, pattern: str) -> dict[str, Path]:
    return {str(path.relative_to(home)): path for path in Path(home).glob(pattern)}


def vectors(file: Path) -> np.ndarray:
    return np.stack(pq.read_table(file)["vector"].to_numpy())


def asked(api: str, what: str, body: object) -> list[dict[str, Any]]:
    request = urllib.request.Request(
        f"{api}/{what}/filter", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def test_a_night_on_two_hosts_gives_what_a_night_on_one_gives(
    on_ray: Environment, cluster: Any, prefect_server: str, tmp_path: Path
) -> None:
    alone = {**on_ray, "NIGHTSHIFT_COMPUTE__ENGINE": "local", "NIGHTSHIFT_HOME": str(tmp_path / "alone")}
    night(on_ray)
    seen = asked(prefect_server, "task_runs", {"task_runs": {"name": {"like_": "embed rank"}}})
    assert len(seen) == 2 * SHARDS  # of base and challenger, each a task run of its own
    assert {run["state_type"] for run in seen} == {"COMPLETED"}
    said = asked(prefect_server, "logs", {"logs": {"task_run_id": {"any_": [run["id"] for run in seen]}}})
    assert any(f"of {SHARDS}: " in line["message"] for line in said)  # what the core says on a worker
    night(alone)
    here, there = on_ray["NIGHTSHIFT_HOME"], alone["NIGHTSHIFT_HOME"]
    for pattern, count in (("negatives/*/negatives.parquet", 1), ("embeddings/*/shard-*.parquet", 2 * SHARDS)):
        found, expected = files(here, pattern), files(there, pattern)
        assert len(found) == count
        assert found.keys() == expected.keys()  # digests of all that they are made from
        for name, file in found.items():
            if name.startswith("negatives"):
                assert file.read_bytes() == expected[name].read_bytes()
            else:
                assert (vectors(file) * vectors(expected[name])).sum(axis=1).min() > 0.9999

    encoder = next(iter(files(here, "encoders/*/manifest.json").values())).parent
    script = str(Path(__file__).with_name("loads_on_ray.py"))
    loading = command(script, here, str(encoder), f"ray://127.0.0.1:{cluster.client_port}")  # from outside the cluster
    done = subprocess.run(loading, env=on_ray, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loads = json.loads(done.stdout.splitlines()[-1])
    assert len(loads) == 10
    assert len({process for process, _ in loads}) == 2  # the workers stay, also those that have a GPU
    assert {loaded for _, loaded in loads} == {1}


def test_a_host_that_dies_while_it_embeds_does_not_stop_the_night(on_ray: Environment, cluster: Any) -> None:
    home = on_ray["NIGHTSHIFT_HOME"]
    victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
    with subprocess.Popen(
        command("-m", "flows.cli", "run"), env=on_ray, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while not files(home, "embeddings/.*/shard-*.json") and running.poll() is None:
            time.sleep(0.01)
        cluster.remove_node(victim, allow_graceful=False)
        left = SHARDS - len(files(home, "embeddings/.*/shard-*.json"))
        out, said = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert out.startswith("Promoted"), out
    assert left > 0  # the host died before all was done
    assert len(files(home, "embeddings/*/manifest.json")) == 2
