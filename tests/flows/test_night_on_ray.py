"""Whole nights past one machine: Ray hosts (raylets), Prefect and ledger on PostgreSQL, an S3 store, a Milvus server.

All of them are real, and on this machine; Milvus where one can be started (tests/fixtures/milvus_servers.py), and
milvus-lite below home else.
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

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]
pytest.importorskip("prefect_ray")

Environment = dict[str, str]
SHARDS = 12


@pytest.fixture(scope="module")
def database() -> Iterator[tuple[str, str]]:
    """Address and password of a PostgreSQL."""
    with TemporaryDirectory() as folder, postgres_server(Path(folder) / "postgres") as postgres:
        yield postgres


@pytest.fixture(scope="module")
def prefect_server(database: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Prefect's API; its database is PostgreSQL."""
    address, password = database
    url = address.replace("postgresql://", "postgresql+asyncpg://").replace("@", f":{quote(password, safe='')}@")
    with serving_prefect(tmp_path_factory.mktemp("prefect"), PREFECT_API_DATABASE_CONNECTION_URL=url) as api:
        yield api


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    """The options of an address in the bucket `nights`."""
    with s3_server("nights") as options:
        yield options


@pytest.fixture(scope="module")
def milvus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Milvus server; empty where there is none to start."""
    if REAL is None:
        yield ""
        return
    with real_server(tmp_path_factory.mktemp("milvus")) as uri:
        yield uri


@pytest.fixture
def alone(environment: Environment, tmp_path: Path) -> Environment:
    """The environment of a night on this machine alone."""
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "NIGHTSHIFT_HOME": str(tmp_path / "alone"),
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
        "NIGHTSHIFT_EMBEDDING__SHARDS": str(SHARDS),
    }


@pytest.fixture
def apart(
    alone: Environment, cluster: Any, database: tuple[str, str], store: str, milvus: str, tmp_path: Path
) -> Environment:
    """The environment of the same night with everything elsewhere."""
    address, password = database
    return {
        **alone,
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
        "NIGHTSHIFT_MILVUS__ALIAS": f"night_{secrets.token_hex(4)}",  # one home, one alias
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
    """The passages that the release of a home finds, best first."""
    asking = command("-m", "flows.cli", "search", "where was the ancient river seen", "--json")
    done = subprocess.run(asking, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [hit["passage_id"] for hit in json.loads(done.stdout)["hits"]]


def assert_same_night(apart: Environment, alone: Environment) -> None:
    """What both nights made is the same, and the store has what the remote night made."""
    here, there = apart["NIGHTSHIFT_HOME"], alone["NIGHTSHIFT_HOME"]
    for pattern, count in (("negatives/*/negatives.parquet", 1), ("embeddings/*/shard-*.parquet", 2 * SHARDS)):
        actual, expected = files(here, pattern), files(there, pattern)
        assert len(actual) == count
        assert actual.keys() == expected.keys()  # digests of all that they are made from
        for name, file in actual.items():
            if name.startswith("negatives"):
                assert file.read_bytes() == expected[name].read_bytes()
            else:
                assert (vectors(file) * vectors(expected[name])).sum(axis=1).min() > 0.9999
    assert answers(apart) == answers(alone)
    store, root = fs.FileSystem.from_uri(apart["NIGHTSHIFT_STORE__URL"])
    kept = {entry.path for entry in store.get_file_info(fs.FileSelector(root, recursive=True))}
    for kind in ("snapshots", "indexes", "negatives", "encoders", "tokens", "embeddings"):
        made = {path.parent.name for path in files(here, f"{kind}/[!.]*/manifest.json").values()}
        assert made
        assert all(any(f"/{kind}/{name}" in path for path in kept) for name in made)


def test_a_distributed_night_matches_a_night_on_a_single_machine(
    apart: Environment, alone: Environment, client_port: int, prefect_server: str
) -> None:
    night(apart)
    seen = query_server(prefect_server, "task_runs", {"task_runs": {"name": {"like_": "embed rank"}}})
    assert len(seen) == 2 * SHARDS  # of base and challenger, each a task run of its own
    assert {run["state_type"] for run in seen} == {"COMPLETED"}
    lines = query_server(prefect_server, "logs", {"logs": {"task_run_id": {"any_": [run["id"] for run in seen]}}})
    assert any(f"of {SHARDS}: " in line["message"] for line in lines)  # what the core logs on a worker
    night(alone)
    assert_same_night(apart, alone)

    home = apart["NIGHTSHIFT_HOME"]
    encoder = next(iter(files(home, "encoders/*/manifest.json").values())).parent
    script = str(Path(__file__).parents[1] / "fixtures" / "loads_on_ray.py")
    loading = command(script, home, str(encoder), f"ray://127.0.0.1:{client_port}")  # from outside the cluster
    done = subprocess.run(loading, env=apart, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loads = json.loads(done.stdout.splitlines()[-1])
    assert len(loads) == 10
    assert len({process for process, _ in loads}) == 2  # the workers stay, also those that have a GPU
    assert {loaded for _, loaded in loads} == {1}


def test_a_host_that_dies_during_embedding_does_not_stop_the_night(
    apart: Environment, alone: Environment, cluster: Any
) -> None:
    home = apart["NIGHTSHIFT_HOME"]
    victim = sorted(cluster.worker_nodes, key=lambda node: node.node_id)[0]
    with subprocess.Popen(
        command("-m", "flows.cli", "run"), env=apart, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        while not files(home, "embeddings/.*/shard-*.json") and running.poll() is None:
            time.sleep(0.01)
        cluster.remove_node(victim, allow_graceful=False)
        left = SHARDS - len(files(home, "embeddings/.*/shard-*.json"))
        out, errors = running.communicate(timeout=300)
    assert running.returncode == 0, errors
    assert out.startswith("Promoted"), out
    assert left > 0  # the host died before all was done
    assert len(files(home, "embeddings/*/manifest.json")) == 2
    night(alone)
    assert_same_night(apart, alone)
