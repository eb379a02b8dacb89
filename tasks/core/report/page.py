"""The night report: one self-contained HTML page."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.core.base.files import write_text
from tasks.core.base.receipts import Ingested
from tasks.core.base.resolved_settings import differences, show
from tasks.core.base.templates import render
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.systems import System
from tasks.core.evaluation.tune import WEIGHTS
from tasks.core.ingest.judged_pairs import describe_pairs
from tasks.core.ingest.quarantine import QUARANTINE, Refused, first_refused
from tasks.core.report import charts
from tasks.core.report.history import REPORTS, gain_over_base, page_name, training_seconds
from tasks.core.report.index import NEXT, link_next, made_by, nights_of, page_before
from tasks.core.report.night import Night
from tasks.core.report.outcomes import Outcome
from tasks.core.report.sentences import describe_negatives, describe_route, describe_training
from tasks.core.report.steps import LABELS, steps_of
from tasks.core.report.terms import REFUSED, TERMS, mark_of

if TYPE_CHECKING:
    from tasks.core.evaluation.query_cases import Case

CASES = 5  # number of worst and of best queries shown
NIGHTS = 30  # nights in the trend chart
ROWS = 20  # refused rows shown


def write_report(home: Path, night: Night) -> Path:
    """Write `reports/<began>.html` and link to it from the previous night's report; return its absolute path."""
    rival = next((name for name in (System.SERVING, System.BASE) if name in night.figures), None)
    losses, gains = _cases(home, night, rival)
    nights = nights_of(home)
    before, name = page_before(home, nights, night.began), page_name(night.began)
    page = render(
        Path(__file__).with_name("page.html.jinja"),
        night=night,
        duration=_duration(night),
        before=before,
        next_night=NEXT,
        pages=made_by(home, nights),
        terms=TERMS,
        mark_of=mark_of,
        measures=NAMES,
        measure=next((comparison.measure for comparison in night.verdict.comparisons), "nDCG@10")
        if night.verdict
        else "nDCG@10",
        labels=LABELS,
        rival=LABELS[rival] if rival else "",
        gains=gains,
        losses=losses,
        steps=steps_of(night),
        digests=_digests(night),
        changes=differences(night.serving.settings, night.settings) if night.serving else (),
        value_of=show,
        charts=_charts(night, nights),
        route=_route(night),
        training=[describe_training(encoder) for encoder in night.trained],
        mined=[(negatives, describe_negatives(negatives)) for negatives in night.negatives],
        reasons=REFUSED,
        origins=describe_pairs(night.ingested.pairs_from) if night.ingested else "",
        samples=_samples(night),
        judge=partial(judge_command, home),
        refused=_refused(night),
        refused_folder=_refused_folder(night),
    )
    path = home / REPORTS / name
    write_text(path, page)
    if before:
        link_next(home, before, name)
    return path.absolute()


def _charts(night: Night, history: Sequence[Mapping[str, Any]]) -> Mapping[str, str]:
    """Return the SVG of each chart by name. Empty if there is nothing to show."""
    svgs = dict.fromkeys(("quality", "differences", "weights", "loss", "dev", "trend", "evidence"), "")
    if night.figures:
        svgs["quality"] = charts.quality({name: evaluation.metrics for name, evaluation in night.figures.items()})
    if night.tuning and night.tuning.ndcg:
        svgs["weights"] = charts.weights(WEIGHTS.tolist(), night.tuning.ndcg, night.tuning.weight)
    if night.verdict and night.verdict.comparisons:
        rows = {f"over {gain.against.removeprefix('the ')}": gain for gain in night.verdict.comparisons}
        svgs["differences"] = charts.differences(rows | night.verdict.slices, night.verdict.margin)
    if any(encoder.loss for encoder in night.trained):
        svgs["loss"] = charts.loss([encoder.loss for encoder in night.trained])
    if any(encoder.dev for encoder in night.trained):
        svgs["dev"] = charts.dev([encoder.dev for encoder in night.trained])
    nights = [row for row in history if row["began"] <= night.began][-NIGHTS:]
    skipped = night.outcome == Outcome.SKIPPED  # nothing to draw; matplotlib takes a second to import
    if not skipped and len(nights) > 1 and any(row["challenger_ndcg"] is not None for row in nights):
        svgs["trend"] = charts.trend(nights)
    if night.drift and night.drift.windows and night.drift.windows[-1].line:
        svgs["evidence"] = charts.evidence(night.drift.windows)
    return svgs


def _cases(home: Path, night: Night, rival: System | None) -> tuple[Sequence[Case], Sequence[Case]]:
    if rival is None or night.snapshot is None:
        return [], []
    from tasks.core.evaluation.query_cases import most_different  # imports the retrievers

    return most_different(home, night.figures[System.CHALLENGER], night.figures[rival], night.snapshot, CASES)


def _route(night: Night) -> str:
    if night.route is None:
        return ""
    scores = {system: evaluation.metrics["ndcg@10"] for system, evaluation in night.figures.items()}
    gain = gain_over_base(scores.get(System.CHALLENGER), scores.get(System.BASE))
    return describe_route(night.route, training_seconds(night) or 0.0, gain)


def _digests(night: Night) -> list[tuple[str, str]]:
    """Return the names and digests of everything that this night read and made."""
    release = night.made
    names = [
        ("release", release and release.release),
        ("collection", release and release.collection),
        ("settings", release and release.recipe),
        ("ingest", night.ingested and night.ingested.digest),
        ("snapshot", night.snapshot and night.snapshot.digest),
        ("encoder fingerprint", night.encoder and night.encoder.fingerprint),
        ("embeddings", night.embeddings and night.embeddings.digest),
        *((f"evaluation of {LABELS[name]}", evaluation.digest) for name, evaluation in night.figures.items()),
    ]
    return [(name, digest) for name, digest in names if digest]


def _duration(night: Night) -> str:
    seconds = (night.ended - night.began).total_seconds() if night.ended else 0
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _refused_folder(night: Night) -> str:
    """Return the relative URL of the folder with the refused rows and the contracts page."""
    if night.refused is not None:
        return f"../{night.refused.parent.name}/{night.refused.name}"
    return f"../{Ingested.shelf}/{night.ingested.digest}" if night.ingested else ""


def _refused(night: Night) -> Sequence[Refused]:
    folder = night.refused or (night.ingested.path if night.ingested and night.ingested.quarantined else None)
    return first_refused(folder, ROWS) if folder is not None and (folder / QUARANTINE).exists() else ()


def judge_command(home: Path, query: str, passage_id: str) -> str:
    """Return the shell command that marks a negative as relevant in this home."""
    pair = f"{shlex.quote(query)} {shlex.quote(passage_id)}"
    separator = "-- " if query.startswith("-") or passage_id.startswith("-") else ""
    return f"NIGHTSHIFT_HOME={shlex.quote(str(home.absolute()))} nightshift judge --relevant {separator}{pair}"


def _samples(night: Night) -> Sequence[dict[str, Any]]:
    if not night.negatives:
        return []
    path = night.negatives[-1].path / "sample.json"
    samples: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))
    return samples
