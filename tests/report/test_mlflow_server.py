"""A real MLflow server after three nights and a rollback; killed, and started again."""

from __future__ import annotations

import pytest
from mlflow_servers import MLFLOW, mlflow_server
from test_tracking import night_of, release_of, waiting

from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.report.outcomes import Outcome
from tasks.core.report.tracking.outbox import send_all, track_night, track_serving


@pytest.mark.slow
@pytest.mark.skipif(MLFLOW is None, reason="no MLflow server (NIGHTSHIFT_TEST_MLFLOW)")
def test_the_alias_follows_three_nights_and_a_rollback_and_a_dead_server_loses_none(tmp_path):
    from mlflow import MlflowClient

    home = tmp_path / "home"
    with mlflow_server(tmp_path) as server:
        settings = TrackingSettings(tracker="mlflow", url=server.url, seconds=120)
        client = MlflowClient(server.url, server.url)

        def serving():
            return client.get_model_version_by_alias(settings.model, "serving").tags["nightshift.release"]

        for number in (1, 2):
            track_night(home, settings, night_of(home, number))
            assert serving() == release_of(home, number).release
        rejected = night_of(home, 3, Outcome.REJECTED).having(serving=release_of(home, 2))
        track_night(home, settings, rejected)
        assert serving() == "r0002-aaaa"
        track_serving(home, settings, "r0001-aaaa")
        assert serving() == "r0001-aaaa"
        assert waiting(home) == []

        (experiment,) = client.search_experiments(filter_string="name = 'nightshift'")
        runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
        assert [run.data.tags["outcome"] for run in runs] == ["Promoted", "Promoted", "Rejected"]
        assert runs[0].data.params["gate.margin"] == "0.02"
        assert runs[0].data.metrics["challenger.ndcg_at_10"] == 0.8
        losses = client.get_metric_history(runs[0].info.run_id, "round_0.loss")
        assert [(loss.step, loss.value) for loss in losses] == [(1, 0.3), (2, 0.2), (3, 0.1)]
        assert {file.path for file in client.list_artifacts(runs[0].info.run_id)} == {"encoder", "report-1.html"}
        assert runs[0].inputs.dataset_inputs[0].dataset.digest == "5a5a"

        server.kill()
        track_night(home, settings, night_of(home, 4))
        assert len(waiting(home)) == 1
        server.start()
        assert send_all(home, settings) == 1
        assert serving() == "r0004-aaaa"
        assert len(client.search_runs([experiment.experiment_id])) == 4
