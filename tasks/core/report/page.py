"""The night report: one self-contained HTML page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.core.evaluation.cases import Case, most_different
from tasks.core.evaluation.measures import NAMES
from tasks.core.files import write_text
from tasks.core.night import Night
from tasks.core.pages import render
from tasks.core.report import charts
from tasks.core.report.history import REPORTS, page_name, read_history
from tasks.core.report.mined import told
from tasks.core.report.steps import LABELS, steps_of

CASES = 5  # worst and best queries shown, each
NIGHTS = 30  # of the trend
TEXT = 400  # characters of a passage


def write_report(home: Path, night: Night) -> Path:
    """Write `reports/<when>.html`; return its absolute path."""
    rival = next((name for name in ("serving", "base") if name in night.figures), "")
    losses, gains = _cases(home, night, rival)
    page = render(
        Path(__file__).with_name("page.html.jinja"),
        night=night,
        measures=NAMES,
        labels=LABELS,
        rival=LABELS.get(rival, ""),
        gains=gains,
        losses=losses,
        shown=_shown,
        steps=steps_of(night),
        digests=_digests(night),
        charts=_charts(home, night),
        mined=[told(one) for one in night.negatives],
        samples=_samples(night),
    )
    path = home / REPORTS / page_name(night.began)
    write_text(path, page)
    return path.absolute()


def _charts(home: Path, night: Night) -> Mapping[str, str]:
    """Name → SVG; empty where there is nothing to show."""
    found = dict.fromkeys(("quality", "differences", "loss", "dev", "trend"), "")
    if night.figures:
        found["quality"] = charts.quality({name: one.metrics for name, one in night.figures.items()})
    if night.verdict and night.verdict.comparisons:
        rows = {one.against.removeprefix("the "): one for one in night.verdict.comparisons}
        found["differences"] = charts.differences(rows | night.verdict.slices, night.verdict.margin)
    if any(one.loss for one in night.trained):
        found["loss"] = charts.loss([one.loss for one in night.trained])
    if any(one.dev for one in night.trained):
        found["dev"] = charts.dev([one.dev for one in night.trained])
    nights = sorted(read_history(home).to_pylist(), key=lambda row: row["began"])
    measured = [row for row in nights if row["began"] <= night.began and row["challenger_ndcg"] is not None][-NIGHTS:]
    if len(measured) > 1:
        found["trend"] = charts.trend(measured)
    return found


def _cases(home: Path, night: Night, rival: str) -> tuple[Sequence[Case], Sequence[Case]]:
    if not rival or night.snapshot is None:
        return [], []
    return most_different(home, night.figures["challenger"], night.figures[rival], night.snapshot, CASES)


def _digests(night: Night) -> list[tuple[str, str]]:
    """What names everything that this night read and made."""
    release = night.release
    named = [
        ("release", release and release.release),
        ("collection", release and release.collection),
        ("settings", release and release.recipe),
        ("reading of the source", night.ingested and night.ingested.digest),
        ("snapshot", night.snapshot and night.snapshot.digest),
        ("encoder fingerprint", night.encoder and night.encoder.fingerprint),
        ("embeddings", night.embeddings and night.embeddings.digest),
        *((f"evaluation of {LABELS[name]}", one.digest) for name, one in night.figures.items()),
    ]
    return [(name, digest) for name, digest in named if digest]


def _shown(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[:TEXT]} …"


def _samples(night: Night) -> Sequence[dict[str, Any]]:
    if not night.negatives:
        return []
    path = night.negatives[-1].path / "sample.json"
    samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return samples
