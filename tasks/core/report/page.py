"""The night report: one self-contained HTML page, and the same in a few lines of Markdown."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tasks.core.evaluation.measures import NAMES
from tasks.core.files import write_text
from tasks.core.night import Night
from tasks.core.pages import render
from tasks.core.receipts import Receipt
from tasks.core.report import charts
from tasks.core.report.mined import told


def write_report(home: Path, night: Night) -> Path:
    """Write `reports/<when>.html`; return its absolute path."""
    page = render(
        Path(__file__).with_name("page.html.jinja"),
        night=night,
        measures=NAMES,
        labels=charts.LABELS,
        steps=steps_of(night),
        quality=charts.quality({name: one.metrics for name, one in night.figures.items()}) if night.figures else "",
        loss=charts.loss([encoder.loss for encoder in night.trained]) if night.trained else "",
        mined=[told(one) for one in night.negatives],
        samples=_samples(night),
    )
    path = home / "reports" / f"{night.began:%Y-%m-%dT%H%M%SZ}.html"
    write_text(path, page)
    return path.absolute()


def steps_of(night: Night) -> list[dict[str, Any]]:
    """What each step did: name, rows, seconds, and whether an earlier run had already done it."""
    named: list[tuple[str, Receipt | None]] = [
        ("validate", night.ingested),
        *((f"mine, round {one.round}", one) for one in night.negatives),
        *((f"train, round {number}", one) for number, one in enumerate(night.trained)),
        ("embed", night.embeddings),
        *((f"evaluate {charts.LABELS[name]}", one) for name, one in night.figures.items()),
        ("publish", night.release),
    ]
    return [
        {"name": name, "rows": one.rows, "seconds": one.seconds, "reused": one.reused, "digest": one.digest}
        for name, one in named
        if one is not None
    ]


def _samples(night: Night) -> Sequence[dict[str, Any]]:
    if not night.negatives:
        return []
    path = night.negatives[-1].path / "sample.json"
    samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return samples
