"""Training on the hosts (raylets) of a real Ray cluster matches training in a single local process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect_servers import query_server

pytestmark = pytest.mark.slow
pytest.importorskip("prefect_ray")

Environment = dict[str, str]


@pytest.fixture
def distributed(environment: Environment, cluster: Any, tmp_path: Path) -> Environment:
    """Return the environment of a night that trains on both hosts of the cluster."""
    return {
        **environment,
        "OMP_NUM_THREADS": "1",
        "NIGHTSHIFT_HOME": str(tmp_path / "apart"),
        "NIGHTSHIFT_EMBEDDING__PRECISION": "fp32",
        "NIGHTSHIFT_TRAINING__EPOCHS": "30",
        "NIGHTSHIFT_TRAINING__CHECKPOINT_EVERY": "5",
        "NIGHTSHIFT_COMPUTE__ENGINE": "ray",
        "NIGHTSHIFT_COMPUTE__ADDRESS": cluster.address,
        "NIGHTSHIFT_TRAINING__LAUNCHER": "ray",
        "NIGHTSHIFT_TRAINING__PROCESSES": "2",
    }


def trained(environment: Environment) -> tuple[Path, dict[str, Any]]:
    """Return folder and manifest of the encoder that a night trained."""
    encoders_made = [(path.parent, json.loads(path.read_text())) for path in encoders(environment, "*/manifest.json")]
    (only,) = (encoder for encoder in encoders_made if encoder[1]["steps"] > 0)
    return only


def encoders(environment: Environment, pattern: str) -> list[Path]:
    return list(Path(environment["NIGHTSHIFT_HOME"], "encoders").glob(pattern))


def logged(api: str, task: str) -> list[str]:
    """Return the log lines of the last task run of this name."""
    runs = query_server(api, "task_runs", {"task_runs": {"name": {"like_": task}}, "sort": "EXPECTED_START_TIME_DESC"})
    lines = query_server(api, "logs", {"logs": {"task_run_id": {"any_": [runs[0]["id"]]}}, "sort": "TIMESTAMP_ASC"})
    return [line["message"] for line in lines]


@pytest.mark.parametrize("host_lost", [False, True], ids=["both-hosts", "host-lost"])
def test_training_across_hosts_matches_training_in_a_single_process(
    host_lost: bool,
    distributed: Environment,
    cluster: Any,
    client_port: int,
    nightshift: Callable[..., subprocess.CompletedProcess[str]],
    prefect_server: str,
    tmp_path: Path,
) -> None:
    if host_lost:  # with the other kind of address
        distributed["NIGHTSHIFT_COMPUTE__ADDRESS"] = f"ray://127.0.0.1:{client_port}"
    command = [sys.executable, "-m", "flows.cli", "run"]
    with subprocess.Popen(command, env=distributed, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as night:
        if host_lost:
            while not encoders(distributed, ".*/checkpoints/*") and night.poll() is None:
                time.sleep(0.01)
            cluster.remove_node(cluster.worker_nodes.copy().pop(), allow_graceful=False)
        out, errors = night.communicate(timeout=300)
    assert night.returncode == 0, errors
    assert out.startswith("Promoted"), out
    doctor = subprocess.run(
        [sys.executable, "-m", "flows.cli", "doctor"], env=distributed, capture_output=True, text=True
    )
    assert f"{2 if host_lost else 3} hosts, room for {1 if host_lost else 2} shards" in " ".join(doctor.stdout.split())
    log = logged(prefect_server, "train, round")
    assert "Training on Ray in 2 processes" in log
    assert ("training on Ray, in 1 process" in log) == host_lost
    assert any(line.startswith("Resuming training after step") for line in log) == host_lost

    alone = {name: value for name, value in distributed.items() if "COMPUTE" not in name and "LAUNCHER" not in name}
    alone |= {"NIGHTSHIFT_HOME": str(tmp_path / "alone"), "NIGHTSHIFT_TRAINING__PROCESSES": "1"}
    done = nightshift("run", **alone)
    assert done.returncode == 0, done.stderr
    (here, local), (there, remote) = trained(alone), trained(distributed)
    assert local["digest"] == remote["digest"]  # the place of training is not part of the recipe
    assert sorted(path.name for path in there.iterdir()) == sorted(path.name for path in here.iterdir())
    assert local["steps"] == remote["steps"] > 30
    np.testing.assert_allclose(remote["loss"][:3], local["loss"][:3], rtol=1e-4)
    # Two processes sum gradients in another order, and the rounding differences accumulate.
    np.testing.assert_allclose(remote["loss"], local["loss"], rtol=1e-2, atol=1e-2)


def test_the_error_of_a_training_process_is_reported_and_not_retried(
    distributed: Environment, nightshift: Callable[..., subprocess.CompletedProcess[str]], prefect_server: str
) -> None:
    night = nightshift("run", **{**distributed, "NIGHTSHIFT_TRAINING__LEARNING_RATE": "1e30"})
    assert night.returncode == 1
    assert "lower [training] learning_rate" in night.stderr
    assert "Ray reports" not in night.stderr
    assert logged(prefect_server, "train, round").count("Training on Ray in 2 processes") == 1
