"""Nights as runs of an MLflow server, and released encoders as versions of a registered model."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from tasks.core.base.checksums import CHECKSUMS, MANIFEST
from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.report.outcomes import Outcome
from tasks.core.report.tracking.tracker import SERVING, DataVersion, ReleasedEncoder, TrackedNight

NIGHT, RELEASE = "nightshift.night", "nightshift.release"  # tags of runs and of versions
LONGEST = 6000  # characters of a parameter
PARAMETERS, METRICS = 100, 1000  # limits of a request
SKIPPED = (".*", MANIFEST, CHECKSUMS)  # Nightshift's records in an encoder's folder


class MlflowTracker:
    """A client of an MLflow server. Every method may be repeated: it finds what it stored before."""

    def __init__(self, settings: TrackingSettings) -> None:
        """Connect lazily. Raises ImportError if the extra `mlflow` is not installed."""
        from mlflow import MlflowClient

        self._settings = settings
        self._client = MlflowClient(settings.url or None, settings.url or None)

    def send_night(self, night: TrackedNight) -> None:
        """Store a night as a run; register the encoder of its release. Raises MlflowException if the server is down."""
        run = self._find_run(night) or self._create_run(night)
        self._log_values(run, night)
        if night.data is not None:
            self._log_data(run, night.data)
        if night.report is not None and night.report.is_file():
            self._client.log_artifact(run, str(night.report))
        if night.encoder is not None:
            self._register(run, night.encoder)
        if night.serving:
            self.mark_serving(night.serving)
        status = "FAILED" if night.outcome == Outcome.FAILED else "FINISHED"
        self._client.set_terminated(run, status, _milliseconds(night.ended))

    def mark_serving(self, release: str) -> None:
        """Move the alias `serving` to the version of a release; a release that was never registered has none."""
        version = self._find_version(release)
        if version is not None:
            self._client.set_registered_model_alias(self._settings.model, SERVING, version)

    def _experiment(self) -> str:
        from mlflow.exceptions import MlflowException

        name = self._settings.experiment
        if (experiment := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # another home created it in the meantime
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _find_run(self, night: TrackedNight) -> str | None:
        runs = self._client.search_runs([self._experiment()], f"tags.`{NIGHT}` = '{night.name}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _create_run(self, night: TrackedNight) -> str:
        tags = {NIGHT: night.name, "outcome": night.outcome.value, "reason": night.reason, "why": night.why[:LONGEST]}
        began = _milliseconds(night.began)
        run = self._client.create_run(self._experiment(), began, tags | {RELEASE: night.serving}, night.name)
        return str(run.info.run_id)

    def _log_values(self, run: str, night: TrackedNight) -> None:
        from mlflow.entities import Metric, Param

        parameters = [Param(name, _text(value)) for name, value in night.parameters.items()]
        ended = _milliseconds(night.ended)
        metrics = [Metric(name, value, ended, 0) for name, value in night.metrics.items()]
        metrics += [Metric(name, value, ended, step) for name, points in night.series.items() for step, value in points]
        for first in range(0, len(parameters), PARAMETERS):
            self._client.log_batch(run, params=parameters[first : first + PARAMETERS])
        for first in range(0, len(metrics), METRICS):
            self._client.log_batch(run, metrics=metrics[first : first + METRICS])

    def _log_data(self, run: str, data: DataVersion) -> None:
        from mlflow.entities import Dataset, DatasetInput

        profile = json.dumps({"passages": data.passages, "queries": data.queries, "qrels": data.qrels})
        dataset = Dataset(data.name, data.digest, "local", json.dumps({"uri": data.source}), profile=profile)
        self._client.log_inputs(run, [DatasetInput(dataset)])

    def _register(self, run: str, encoder: ReleasedEncoder) -> None:
        """Create a version for the release, with its model card, and its weights if the settings request them."""
        from mlflow.exceptions import MlflowException

        if self._find_version(encoder.release) is not None:
            return
        if encoder.card.is_file():
            self._client.log_artifact(run, str(encoder.card), "encoder")
        if self._settings.weights:
            for file in sorted(encoder.folder.rglob("*")):
                path = file.relative_to(encoder.folder)
                if file.is_file() and not any(path.match(pattern) for pattern in SKIPPED):
                    self._client.log_artifact(run, str(file), (("encoder" / path).parent).as_posix())
        try:
            self._client.create_registered_model(self._settings.model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        source = f"{self._client.get_run(run).info.artifact_uri}/encoder"
        tags = {RELEASE: encoder.release, "fingerprint": encoder.fingerprint, "folder": str(encoder.folder)}
        self._client.create_model_version(self._settings.model, source, run, tags)

    def _find_version(self, release: str) -> str | None:
        versions = self._client.search_model_versions(f"name = '{self._settings.model}'")
        return next((str(version.version) for version in versions if version.tags.get(RELEASE) == release), None)


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _text(value: Any) -> str:
    return (value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))[:LONGEST]
