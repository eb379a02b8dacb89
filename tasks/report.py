"""The only maker of Prefect artifacts, and the task that writes the night report."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast
from uuid import UUID

from prefect import get_run_logger, task
from prefect.artifacts import (
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.core.data.docs import PAGE
from tasks.core.drift.findings import Drift
from tasks.core.embedding.progress import Pace, Watch
from tasks.core.evaluation.gate import Verdict
from tasks.core.evaluation.measures import NAMES
from tasks.core.night import Night, last_line
from tasks.core.receipts import Encoder, Evaluation, Ingested, Negatives, Release, Snapshot
from tasks.core.report.history import record
from tasks.core.report.index import write_index
from tasks.core.report.page import write_report
from tasks.core.report.sentences import describe_negatives
from tasks.core.report.steps import LABELS, steps_of
from tasks.core.report.terms import mark_of
from tasks.core.settings import Settings
from tasks.policy import STEP, step_of

SHOWN = 60  # characters of a text in an artifact: its tables do not wrap


@task(name="report", task_run_name="report: {night.outcome}", **STEP)
def write(settings: Settings, night: Night) -> Night:
    """Write the night's row of the history, the HTML report and its summary in the Prefect UI; with the page's path."""
    night = night.having(ended=datetime.now(UTC))
    record(settings.home, night)
    night = night.having(report=write_report(settings.home, night))
    write_index(settings.home)
    create_markdown_artifact(_summary(night), key="night-report", description=f"Night: {night.outcome}")
    return night


def failed(settings: Settings, night: Night, error: Exception) -> None:
    """Leave a failed night in the history and as a page, with all that was known. An error in that is only logged."""
    failure = {"failure": str(error) or type(error).__name__, "failed_step": step_of(error)}
    refused = getattr(error, "refused", None)
    try:
        write(settings, night.having(outcome="Failed", refused=refused, **failure))
    except Exception:
        get_run_logger().warning("no report of the failed night", exc_info=True)


def contract_table(ingested: Ingested, snapshot: Snapshot) -> None:
    """Every contract rule, broken ones first: severity, observed, threshold, offenders."""
    ordered = sorted(ingested.rules, key=lambda one: (one.failed == 0, one.severity == "warn"))
    rows = [
        {
            "table": one.table,
            "rule": one.rule,
            "severity": one.severity,
            "checked": one.checked,
            "failed": one.failed,
            "observed": one.observed,
            "threshold": one.threshold,
            "offenders": ", ".join(one.offenders),
            "about": one.description,
        }
        for one in ordered
    ]
    about = (
        f"{ingested.rows:,} rows read = {ingested.accepted:,} accepted + {ingested.quarantined:,} in quarantine "
        f"→ snapshot {snapshot.digest} of {snapshot.rows:,} passages, {snapshot.queries:,} queries, "
        f"{snapshot.qrels:,} qrels. All rules as a page: {ingested.path.absolute() / PAGE}"
    )
    create_table_artifact(rows, key="data-contract", description=about)


def drift_table(drift: Drift) -> None:
    """What changed since the serving snapshot, what follows from it, and the terms and parts that moved most."""
    rows = [
        {
            "what": one.name.replace("_", " "),
            "value": round(one.value, 4),
            "threshold": "explains only" if one.threshold is None else round(one.threshold, 4),
            "fired": "yes" if one.fired else "",
        }
        for one in drift.signals
    ]
    rows += [{"what": f"passages {name}", "value": count} for name, count in drift.passages.model_dump().items()]
    rows += [{"what": f"new queries, {source}", "value": count} for source, count in drift.fresh.items()]
    rows += [
        {"what": f"term “{one.term}”", "value": round(one.share, 4), "threshold": f"before {one.reference:.4f}"}
        for one in drift.terms
    ]
    rows += [
        {"what": f"segment: {one.name}", "value": round(one.share, 4), "threshold": f"before {one.reference:.4f}"}
        for one in drift.slices
    ]
    create_table_artifact(rows, key="drift", description=f"{drift.verdict}: {drift.cause}")


def unfamiliar_queries(drift: Drift) -> None:
    """The queries that a person should label: the lowest scores of the last window that drifted."""
    rows = [{"query": _short(query)} for query in drift.unfamiliar]
    about = f"Label these queries. All of them: {drift.unfamiliar_file}" if rows else drift.cause
    create_table_artifact(rows, key="unfamiliar-queries", description=about)


def drift_history(drift: Drift) -> None:
    """The windows of new queries that were judged, newest first: the drift over time."""
    rows = [
        {
            "window": one.number,
            "when": f"{one.at:%Y-%m-%d %H:%M}",
            "queries": one.queries,
            "low-score share": round(one.low, 4),
            "threshold": round(one.threshold, 4),
            "found": "suspect" if one.suspect else ", ".join(["unfamiliar"] * one.fired + ["worse"] * one.worse),
        }
        for one in reversed(drift.windows)
    ]
    if rows:
        about = f"{len(rows)} windows; {drift.held or 'nothing is held back'}"
        create_table_artifact(rows, key="drift-history", description=about)


def negatives_sample(negatives: Negatives) -> None:
    """Mined negatives for human eyes: is any of them in truth an answer?"""
    samples = json.loads((negatives.path / "sample.json").read_text(encoding="utf-8"))
    rows = [
        {
            "query": _short(sample["query"]),
            "negative": _short(kept["text"]),
            "positive": _short(sample["positives"][0]["text"]),
            "source": kept["source"],
            "rank": kept["rank"],
            "score": round(kept["dense_score"], 3),
            "of positive": _rounded(kept["trail"]["above_margin"]),
        }
        for sample in samples
        for kept in sample["negatives"][:2]
    ]
    create_table_artifact(rows, key="mined-negatives", description=" ".join(describe_negatives(negatives)))


def embedding_progress(encoder: Encoder) -> Watch:
    """Follow an embedding in a progress artifact: the share of all passages, speed, time left."""
    shown: list[UUID] = []

    def watch(pace: Pace) -> None:
        percent, words = 100 * pace.share, f"Encoder {encoder.fingerprint}, {pace}"
        try:
            if shown:
                update_progress_artifact(shown[0], percent, words)
            else:
                shown.append(cast(UUID, create_progress_artifact(percent, key="embedding", description=words)))
        except Exception:  # hours of encoding do not hang on a server that shows them
            get_run_logger().warning("progress of the embedding could not be shown", exc_info=True)

    return watch


def evaluation_table(verdict: Verdict, figures: Mapping[str, Evaluation]) -> None:
    """Measures of every system on the same held-out queries, under the gate's verdict."""
    rows = [
        {"system": LABELS[name], "queries": one.rows, **{NAMES[key]: round(one.metrics[key], 4) for key in NAMES}}
        for name, one in figures.items()
    ]
    decision = "promote" if verdict.promote else "reject"
    create_table_artifact(rows, key="evaluation", description=f"{decision}: {'; '.join(verdict.reasons)}")


def release_card(release: Release) -> None:
    """What went live, and how to undo it."""
    lines = [
        f"# Release {release.release}",
        f"{release.rows:,} passages, nDCG@10 **{release.metrics['ndcg@10']:.4f}** "
        f"(BM25 {release.bm25['ndcg@10']:.4f}, base model {release.base['ndcg@10']:.4f})",
        "",
        "| | |",
        "|---|---|",
        f"| encoder | `{release.fingerprint}` |",
        f"| collection | `{release.collection}` |",
        f"| snapshot | `{release.snapshot}` |",
        f"| metric | {release.metric}, {release.dimension} dimensions |",
        "",
        "Undo: `nightshift rollback`",
    ]
    create_markdown_artifact("\n".join(lines), key="release-card", description=f"Release {release.release}")


def _summary(night: Night) -> str:
    lines = [f"# {night.outcome}", last_line(night).removeprefix(f"{night.outcome}: "), ""]
    if night.verdict:
        lines += [f"- {mark_of(one).sign} {one.words}" for one in night.verdict.findings] + [""]
    if night.figures:
        lines += [f"| system | {' | '.join(NAMES.values())} |", "|---|" + "---:|" * len(NAMES)]
        lines += [
            f"| {LABELS[name]} | " + " | ".join(f"{one.metrics[key]:.4f}" for key in NAMES) + " |"
            for name, one in night.figures.items()
        ] + [""]
    if steps := steps_of(night):
        lines += ["| step | rows | seconds | work avoided |", "|---|---:|---:|---|"]
        lines += [
            f"| {one.name} | {one.rows:,} | {0 if one.reused else one.seconds:.1f} | {one.avoided} |" for one in steps
        ]
    return "\n".join(lines)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def _short(text: str) -> str:
    """On one line, and as it stands: the UI takes what is in a cell for Markdown."""
    line = " ".join(text.split())
    return re.sub(r"([_*`\\<>])", r"\\\1", line if len(line) <= SHOWN else line[:SHOWN] + " …")
