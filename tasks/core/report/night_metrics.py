"""Metrics of the last night in Prometheus' text format, written to `home/metrics/nightshift.prom` at its end.

The search service repeats this file at `GET /metrics`. Where no service runs, Prometheus' node exporter can read it
(`--collector.textfile.directory home/metrics`). Use one of the two, so that no series is stored twice.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from tasks.core.report.history import read_history
from tasks.core.report.night import Night
from tasks.core.report.outcomes import Outcome
from tasks.core.report.steps import steps_of
from tasks.core.search.metrics import NIGHT_FILE


def write_night_metrics(home: Path, night: Night) -> Path:
    """Replace the metrics file of the home, atomically; return its path. The history must contain the night."""
    registry = CollectorRegistry()
    last = Gauge("nightshift_night_outcome", "1 for the outcome of the last night.", ["outcome"], registry=registry)
    nights = Gauge("nightshift_nights", "Nights in the history, by outcome.", ["outcome"], registry=registry)
    counts = Counter(read_history(home)["outcome"].to_pylist())
    for outcome in Outcome:
        last.labels(outcome).set(outcome == night.outcome)
        nights.labels(outcome).set(counts[outcome.value])
    ended = night.ended or night.began
    _gauge(registry, "ended_timestamp_seconds", "Unix time at which the last night ended.", ended.timestamp())
    _gauge(registry, "seconds", "Duration of the last night.", (ended - night.began).total_seconds())
    if night.ingested is not None:
        _gauge(registry, "rows_read", "Rows that the last night read.", night.ingested.rows)
        _gauge(registry, "rows_refused", "Rows that the data contracts refused.", night.ingested.quarantined)
    if night.embeddings is not None:
        _gauge(registry, "passages_embedded", "Passages that were embedded.", night.embeddings.embedded)
        _gauge(registry, "vectors_reused", "Vectors that were not computed again.", night.embeddings.avoided)
    steps = Gauge(
        "nightshift_night_step_seconds", "Duration of a step; 0 if it was reused.", ["step"], registry=registry
    )
    for step in steps_of(night):
        steps.labels(step.name).set(0 if step.reused else step.seconds)
    quality = Gauge(
        "nightshift_night_quality", "Means over the held-out queries.", ["system", "measure"], registry=registry
    )
    for system, evaluation in night.figures.items():
        for measure, mean in evaluation.metrics.items():
            quality.labels(system, measure).set(mean)
    file = home / NIGHT_FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    write_to_textfile(str(file), registry)
    return file


def _gauge(registry: CollectorRegistry, name: str, help_text: str, value: float) -> None:
    Gauge(f"nightshift_night_{name}", help_text, registry=registry).set(value)
