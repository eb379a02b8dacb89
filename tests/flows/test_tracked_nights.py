"""Real nights, a rollback, and a real MLflow server that dies in the middle of a night."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow_servers import MLFLOW, mlflow_server
from things_and_traits import add_lines

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(MLFLOW is None, reason="no MLflow server (NIGHTSHIFT_TEST_MLFLOW)"),
]


def add_passage(environment, name):
    row = {"_id": name, "title": "", "text": f"the story of a river told near one castle {name}"}
    add_lines(Path(environment["NIGHTSHIFT_DATA__PATH"]), "corpus.jsonl", row)


def test_three_nights_a_rollback_and_a_server_that_dies_during_the_fourth(nightshift, environment, tmp_path):
    from mlflow import MlflowClient

    home = Path(environment["NIGHTSHIFT_HOME"])
    with mlflow_server(tmp_path) as server:
        environment |= {"NIGHTSHIFT_TRACKING__TRACKER": "mlflow", "NIGHTSHIFT_TRACKING__URL": server.url}
        environment["NIGHTSHIFT_TRACKING__SECONDS"] = "120"
        client = MlflowClient(server.url, server.url)

        def serving():
            return client.get_model_version_by_alias("nightshift-encoder", "serving").tags["nightshift.release"]

        def runs():
            (experiment,) = client.search_experiments(filter_string="name = 'nightshift'")
            return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])

        names = []
        for number, outcome in enumerate(("Promoted", "Promoted", "Skipped")):
            if number == 1:
                add_passage(environment, "new1")
            done = nightshift("run", "--reason", f"night {number}")
            assert done.stdout.startswith(outcome), done.stdout + done.stderr
            names.append(json.loads(nightshift("releases", "--json").stdout)["serving"])
            assert serving() == names[-1], done.stderr
        assert nightshift("rollback").returncode == 0
        assert serving() == names[0] != names[1]
        assert [run.data.tags["outcome"] for run in runs()] == ["Promoted", "Promoted", "Skipped"]
        first = runs()[0]
        assert first.data.params["training.epochs"] == "8.0"
        assert len(client.get_metric_history(first.info.run_id, "round_0.loss")) > 1
        assert any(file.path.endswith(".html") for file in client.list_artifacts(first.info.run_id))

        add_passage(environment, "new2")
        command = [sys.executable, "-m", "flows.cli", "run", "--reason", "the tracker dies"]
        with subprocess.Popen(command, env=environment, stdout=-1, stderr=subprocess.STDOUT, text=True) as night:
            lines = []
            for line in night.stdout:
                lines.append(line)
                if "/8] embed" in line and server.process.poll() is None:
                    server.kill()
        assert (night.returncode, server.process.returncode) == (0, -9), "".join(lines)
        assert any(line.startswith("Promoted: release r0003") for line in lines), "".join(lines)
        assert len(list((home / "tracking" / "outbox").glob("*.json"))) == 1
        server.start()
        assert nightshift("track").stdout == "sent 1 to mlflow\n"
        assert serving().startswith("r0003")
