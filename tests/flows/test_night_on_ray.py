"""Distributed nights: Ray hosts (raylets), Prefect and ledger on PostgreSQL, an S3 store, and a Milvus server.

All of them are real and run on this machine. Without an installed Milvus (tests/fixtures/milvus_servers.py), the test
uses milvus-lite below home.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
import pytest
from milvus_servers import REAL, real_server
from postgres_servers import postgres_server
from prefect_servers import query_server, serving_prefect
from pyarrow import fs
from s3_server import CREDENTIALS, s3_server

pytestmark = pytest.mark.slow
pytest.importorskip("prefect_ray")

Environment = dict[str, str]
SHARDS = 12


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[str, str]]:
    """Start PostgreSQL; yield its address and password."""
    with TemporaryDirectory() as folder, postgres_server(Path(folder) / "postgres") as postgres:
        yield postgres


@pytest.fixture(scope="module")
def prefect_server(database: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server on PostgreSQL; yield the URL of its API."""
    address, password = database
    url = address.replace("postgresql://", "postgresql+asyncpg://").replace("@", f":{quote(password, safe='')}@")
    with serving_prefect(tmp_path_factory.mktemp("prefect"), PREFECT_API_DATABASE_CONNECTION_URL=url) as api:
        yield api


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """Start an S3 server; yield the options for addresses in the bucket `nights`."""
    with s3_server("nights") as options:
        yield options


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Milvus server; yield its address, or an empty string if none is installed."""
    if REAL is None:
        yield ""
        return
    with real_server(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture
def single(environment: Environment, tmp_path: Path) -> Environment:
    """Return the environment of a night on a single machine."""
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "NIGHTSHIFT_HOME": str(tmp_path / "alone"),
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
        "NIGHTSHIFT_EMBEDDING__SHARDS": str(SHARDS),
    }


@pytest.fixture
def distributed(
    single: Environment, cluster: Any, database: tuple[str, str], store: str, milvus: str, tmp_path: Path
) -> Environment:
    """Return the environment of the same night with all services on other hosts."""
    address, password = database
    return {
        **single,
        **CREDENTIALS,
        "NIGHTSHIFT_HOME": str(tmp_path / "home"),
        "NIGHTSHIFT_COMPUTE__ENGINE": "ray",
        "NIGHTSHIFT_COMPUTE__ADDRESS": cluster.address,
        "NIGHTSHIFT_COMPUTE__GPUS": "1",
        "NIGHTSHIFT_COMPUTE__MEMORY_GB": "0.25",
        "NIGHTSHIFT_MINING__SHARDS": "3",
        "NIGHTSHIFT_STORE__URL": f"s3://nights/{tmp_path.name}?{store}",
        "NIGHTSHIFT_RELEASE__LEDGER": address,
        "NIGHTSHIFT_RELEASE__PASSWORD": password,
        "NIGHTSHIFT_MILVUS__URI": milvus,
        "NIGHTSHIFT_MILVUS__ALIAS": f"night_{secrets.token_hex(4)}",  # a separate alias for each home
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


def answers(environment: Environment) -> list[str]:
    """Return the ids of the passages that the release of a home answers, best first."""
    search = command("-m", "flows.cli", "search", "where was the ancient river seen", "--json")
    done = subprocess.run(search, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [hit["passage_id"] for hit in json.loads(done.stdout)["hits"]]


def assert_same_night(distributed: Environment, single: Environment) -> None:
    """Check that both nights built the same artifacts, and that the store has those of the distributed night."""
    here, there = distributed["NIGHTSHIFT_HOME"], single["NIGHTSHIFT_HOME"]
    for pattern, count in (("negatives/*/negatives.parquet", 1), ("embeddings/*/shard-*.parquet", 2 * SHARDS)):
        actual, expected = files(here, pattern), files(there, pattern)
        assert len(actual) == count
        assert actual.keys() == expected.keys()  # digests of all inputs
        for name, file in actual.items():
            if name.startswith("negatives"):
                assert file.read_bytes() == expected[name].read_bytes()
            else:
                assert (vectors(file) * vectors(expected[name])).sum(axis=1).min() > 0.9999
    assert answers(distributed) == answers(single)
    store, root = fs.FileSystem.from_uri(distributed["NIGHTSHIFT_STORE__URL"])
    stored = {entry.path for entry in store.get_file_info(fs.FileSelector(root, recursive=True))}
    for kind in ("snapshots", "indexes", "negatives", "encoders", "tokens", "embeddings"):
        built = {path.parent.name for path in files(here, f"{kind}/[!.]*/manifest.json").values()}
        assert built
        assert all(any(f"/{kind}/{name}" in path for path in stored) for name in built)


def test_a_distributed_night_matches_a_night_on_a_single_machine(
    distributed: Environment, single: Environment, client_port: int, prefect_server: str
) -> None:
    night(distributed)
    seen = query_server(prefect_server, "task_runs", {"task_runs": {"name": {"like_": "embed rank"}}})
    assert len(seen) == 2 * SHARDS  # shards of base and challenger, each in a separate task run
    assert {run["state_type"] for run in seen} == {"COMPLETED"}
    lines = query_server(prefect_server, "logs", {"logs": {"task_run_id": {"any_": [run["id"] for run in seen]}}})
    assert any(f"of {SHARDS}: " in line["message"] for line in lines)  # the core logs on a worker
    night(single)
    assert_same_night(distributed, single)

    home = distributed["NIGHTSHIFT_HOME"]
    encoder = next(iter(files(home, "encoders/*/manifest.json").values())).parent
    script = str(Path(__file__).parents[1] / "fixtures" / "loads_on_ray.py")
    loading = command(script, home, str(encoder), f"ray://127.0.0.1:{client_port}")  # from outside the cluster
    done = subprocess.run(loading, env=distributed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loads = json.loads(done.stdout.splitlines()[-1])
    assert len(loads) == 10
    assert len({process for process, _ in loads}) == 2  # the workers persist, also with a GPU
    assert {loaded for _, loaded in loads} == {1}


def test_a_host_that_dies_during_embedding_does_not_stop_the_night(
    distributed: Environment, single: Environment, cluster: Any
) -> None:
    home = distributed["NIGHTSHIFT_HOME"]
    victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
    with subprocess.Popen(
        command("-m", "flows.cli", "run"), env=distributed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while not files(home, "embeddings/.*/shard-*.json") and running.poll() is None:
            time.sleep(0.01)
        cluster.remove_node(victim, allow_graceful=False)
        remaining = SHARDS - len(files(home, "embeddings/.*/shard-*.json"))
        out, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert out.startswith("Promoted"), out
    assert remaining > 0  # the host died before the last shard
    assert len(files(home, "embeddings/*/manifest.json")) == 2
    night(single)
    assert_same_night(distributed, single)
