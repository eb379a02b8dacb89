"""Nights as offline runs of Weights & Biases, in `home/tracking/wandb`. `wandb sync` uploads them."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tasks.core.base.sections.tracking import TrackingSettings
from tasks.core.report.tracking.tracker import SERVING, TrackedNight


class WandbTracker:
    """Writes runs as files; it never uses the network."""

    def __init__(self, settings: TrackingSettings, folder: Path) -> None:
        """Write below `folder`. Raises ImportError if the extra `wandb` is not installed."""
        import wandb  # noqa: F401

        self._settings, self._folder = settings, folder

    def send_night(self, night: TrackedNight) -> None:
        """Store a night as a run, with its report and the card of its release as artifacts."""
        import wandb

        with self._run(night.name, "night", dict(night.parameters)) as run:
            for name, points in night.series.items():
                run.define_metric(name, step_metric=f"{name}.step")
                for step, value in points:
                    run.log({name: value, f"{name}.step": step})
            run.summary.update({**night.metrics, "outcome": night.outcome.value, "why": night.why})
            if night.data is not None:
                run.summary.update({f"data.{key}": value for key, value in night.data.model_dump().items()})
            if night.report is not None and night.report.is_file():
                report = wandb.Artifact(f"report-{run.id}", "report")
                report.add_file(str(night.report))
                run.log_artifact(report)
            if night.encoder is not None:
                model = wandb.Artifact(self._settings.model, "model", metadata=night.encoder.model_dump(mode="json"))
                if night.encoder.card.is_file():
                    model.add_file(str(night.encoder.card))
                if self._settings.weights:
                    model.add_dir(str(night.encoder.folder))
                run.log_artifact(model, aliases=[SERVING, night.encoder.release])

    def mark_serving(self, release: str) -> None:
        """Record the move of the pointer as a run of its own: an offline run cannot change the alias of an artifact."""
        now = datetime.now(UTC)
        with self._run(f"{release}-{now:%Y%m%dT%H%M%S}", "pointer", {}) as run:
            run.summary.update({SERVING: release})

    def _run(self, name: str, kind: str, parameters: dict[str, object]) -> Any:
        import wandb

        self._folder.mkdir(parents=True, exist_ok=True)
        return wandb.init(
            mode="offline",
            project=self._settings.experiment,
            dir=str(self._folder),
            id=hashlib.sha256(name.encode()).hexdigest()[:16],
            name=name,
            job_type=kind,
            config=parameters,
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_stats=True,
                x_disable_meta=True,
            ),
        )
