"""The content that a tracker gets of a night, and the protocol of trackers.

A new tracker is a file with a class like `MlflowTracker`, and a line in `outbox.open_tracker`. A tracker never runs in
the process of a night; see `outbox.py`.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from tasks.core.base.receipts import Encoder, Release
from tasks.core.release.names import CARD
from tasks.core.report.night import Night
from tasks.core.report.outcomes import Outcome

SERVING = "serving"  # alias of the registered model


class DataVersion(BaseModel):
    """The data of a night: the digest of its snapshot, and its counts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    digest: str
    source: str
    passages: int
    queries: int
    qrels: int


class ReleasedEncoder(BaseModel):
    """The encoder of a new release: the files to store, and what identifies it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str
    fingerprint: str
    folder: Path
    card: Path


class TrackedNight(BaseModel):
    """A night as a tracker stores it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str  # unique: when the night began
    began: datetime
    ended: datetime
    outcome: Outcome
    reason: str
    why: str
    parameters: dict[str, Any]  # settings in effect, by dotted name, without secrets
    metrics: dict[str, float]
    series: dict[str, list[tuple[int, float]]]  # name → (step, value)
    data: DataVersion | None
    report: Path | None
    encoder: ReleasedEncoder | None  # of a night that made a release
    serving: str  # release that serves after the night; empty: none, or unknown

    @classmethod
    def of(cls, night: Night, home: Path) -> TrackedNight:
        """Select what a tracker gets of a finished night."""
        return cls(
            name=f"{night.began:%Y-%m-%dT%H%M%S.%fZ}",
            began=night.began,
            ended=night.ended or night.began,
            outcome=night.outcome,
            reason=night.reason,
            why=night.why,
            parameters=night.settings,
            metrics=_metrics(night),
            series=_series(night.trained),
            data=_data(night),
            report=night.report,
            encoder=_encoder(night.release, home),
            serving=night.serves.release if night.serves else "",
        )


class Tracker(Protocol):
    """An experiment tracker. Both methods may be repeated for the same night, and raise if the tracker is down."""

    def send_night(self, night: TrackedNight) -> None:
        """Store a night; if it made a release, register its encoder and mark it as serving."""

    def mark_serving(self, release: str) -> None:
        """Mark the encoder of a release as serving, after the pointer moved."""


def _metrics(night: Night) -> dict[str, float]:
    metrics = {
        f"{system}.{key}".replace("@", "_at_").replace(" ", "_"): value
        for system, evaluation in night.figures.items()
        for key, value in evaluation.metrics.items()
    }
    if night.verdict is not None:
        for comparison in night.verdict.comparisons:
            against = comparison.against.removeprefix("the ").replace(" ", "_")
            metrics |= {f"gain_over_{against}.{end}": getattr(comparison, end) for end in ("difference", "low", "high")}
    if night.ingested is not None:
        metrics |= {"rows.read": night.ingested.rows, "rows.refused": night.ingested.quarantined}
    if night.ended is not None:
        metrics["seconds"] = (night.ended - night.began).total_seconds()
    return metrics


def _series(trained: tuple[Encoder, ...]) -> dict[str, list[tuple[int, float]]]:
    series = {}
    for number, encoder in enumerate(trained):
        series[f"round_{number}.loss"] = list(enumerate(encoder.loss, start=1))
        series[f"round_{number}.dev_ndcg_at_10"] = list(encoder.dev)
    return {name: points for name, points in series.items() if points}


def _data(night: Night) -> DataVersion | None:
    if night.snapshot is None:
        return None
    source, snapshot = night.settings.get("data.path"), night.snapshot
    return DataVersion(
        name=str(night.settings.get("data.feed") or night.settings.get("data.format", "snapshot")),
        digest=snapshot.digest,
        source=str(source or "demo"),
        passages=snapshot.rows,
        queries=snapshot.queries,
        qrels=snapshot.qrels,
    )


def _encoder(release: Release | None, home: Path) -> ReleasedEncoder | None:
    if release is None:
        return None
    return ReleasedEncoder(
        release=release.release,
        fingerprint=release.fingerprint,
        folder=(home / Encoder.shelf / release.encoder).absolute(),
        card=(home / Release.shelf / release.release / CARD).absolute(),
    )
