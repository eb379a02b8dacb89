"""Create all Prefect artifacts, and write the night report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import cast
from urllib.parse import quote
from uuid import UUID

from prefect import get_run_logger, task

from data_contracts.contract import Severity
from tasks.artifact_markdown import Cell, bar, escape, shorten, table
from tasks.core.base.errors import describe
from tasks.core.base.receipts import Encoder, Evaluation, Ingested, Negatives, Release, Snapshot
from tasks.core.base.rule_count import RuleCount
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Drift, Window
from tasks.core.embedding.progress import Pace, Watch
from tasks.core.evaluation.gate import Decision
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.systems import System
from tasks.core.ingest.contracts_page import PAGE
from tasks.core.ingest.judged_pairs import describe_pairs
from tasks.core.report.history import record
from tasks.core.report.index import write_index
from tasks.core.report.night import Night
from tasks.core.report.night_metrics import write_night_metrics
from tasks.core.report.outcomes import Outcome
from tasks.core.report.page import write_report
from tasks.core.report.sentences import describe_negatives
from tasks.core.report.steps import LABELS, steps_of
from tasks.core.report.terms import mark_of
from tasks.core.report.tracking.outbox import track_night
from tasks.policy import STEP, step_of
from tasks.server_loss import (
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)

NEXT_STEPS = {  # for outcomes that need a person
    Outcome.FAILED: "fix the cause in the message and run the night again. It resumes after the last finished step",
    Outcome.REJECTED: "read the failed checks below. The next night tries again with new data or other settings",
    Outcome.SUSPECT: "check the feed. The next night decides again",
    Outcome.UNLABELED: "add the queries of the artifact unfamiliar\\-queries to the train split, each with a qrel",
}


@task(name="report", task_run_name="report: {night.outcome}", **STEP)
def write(settings: Settings, night: Night) -> Night:
    """Write the history row, the HTML report, and its summary in Prefect; return the night with the report's path."""
    night = night.having(ended=datetime.now(UTC))
    record(settings.home, night)
    write_night_metrics(settings.home, night)
    night = night.having(report=write_report(settings.home, night))
    write_index(settings.home)
    _show("night-report", _summary(settings, night), f"Night: {night.outcome}")
    track_night(settings.home, settings.tracking, night)
    return night


def failed(settings: Settings, night: Night, error: Exception) -> None:
    """Write history and report of a failed night, as far as it got. An error while writing is only logged."""
    failure = {"failure": describe(error), "failed_step": step_of(error)}
    refused = getattr(error, "refused", None)
    try:
        write(settings, night.having(outcome=Outcome.FAILED, refused=refused, **failure))
    except Exception:
        get_run_logger().warning("Could not write the report of the failed night", exc_info=True)


def contract_table(ingested: Ingested, snapshot: Snapshot) -> None:
    """Publish the contract rules that rows broke, errors first, and the number of rules that passed."""
    broken = sorted((rule for rule in ingested.rules if rule.failed), key=lambda rule: rule.severity == Severity.WARN)
    contents = f"{snapshot.rows:,} passages, {snapshot.queries:,} queries, {snapshot.qrels:,} qrels"
    lines = [_broken_rule(rule) for rule in broken]
    lines += ["", f"{len(ingested.rules) - len(broken)} of {len(ingested.rules)} rules passed.", ""]
    lines.append(f"All rules, with samples: {_code(ingested.path.absolute() / PAGE)}")
    lines += ["", f"{describe_pairs(ingested.pairs_from)}."] if ingested.pairs_from else []
    _show("data-contract", lines, f"{ingested.balance}. Snapshot {snapshot.digest}: {contents}.")


def _broken_rule(rule: RuleCount) -> str:
    rows = f"{rule.failed:,} of {rule.checked:,} {rule.table}"
    result = rows if rule.checked_rows else f"{rule.table}: {rule.observed}, required {rule.threshold}"
    offenders = shorten(", ".join(rule.offenders))
    first = f". First: {escape(offenders)}" if offenders else ""
    return f"- **{escape(rule.rule)}** ({rule.severity}), {escape(result)}: {escape(rule.description)}{first}"


def drift_table(drift: Drift) -> None:
    """Publish the drift action, its signals, the changes, and the terms and segments that moved most."""
    signals = [
        (
            signal.name.replace("_", " "),
            signal.value,
            "information only" if signal.threshold is None else f"{signal.threshold:.4f}",
            "fired" if signal.fired else "",
        )
        for signal in drift.signals
    ]
    counts = [(f"{name} passages", count) for name, count in drift.passages.model_dump().items()]
    counts += [(f"new queries in the {source}", count) for source, count in drift.fresh.items()]
    moved = [(f"term “{term.term}”", term.share, term.reference) for term in drift.terms]
    moved += [(f"segment: {segment.name}", segment.share, segment.reference) for segment in drift.slices]
    lines = table(("signal", "value", "threshold", ""), signals) + table(("changed", "count"), counts)
    lines += table(("moved most", "share now", "share before"), [(shorten(name), *shares) for name, *shares in moved])
    lines += [f"- {escape(step)}" for step in drift.advice]
    _show("drift", lines, f"{drift.verdict}: {drift.cause}")


def unfamiliar_queries(drift: Drift) -> None:
    """Publish the queries to label: those with the lowest scores in the last window that drifted."""
    lines = [*(f"- {escape(step)}" for step in drift.advice), ""]
    for topic in drift.topics:
        examples = "; ".join(escape(shorten(query)) for query in topic.examples)
        lines.append(f"- **{escape(topic.name)}** ({topic.queries:,} queries, {topic.shortfall}): {examples}")
    lines += ["", "**Lowest scores**", "", *(f"- {escape(query)}" for query in drift.unfamiliar), ""]
    if drift.unfamiliar_file is not None:
        lines.append(f"All unfamiliar queries: {_code(drift.unfamiliar_file)}")
    _show("unfamiliar-queries", lines, drift.cause)


def drift_history(drift: Drift) -> None:
    """Publish the drift result of each window of new queries, newest first."""
    rows = [
        (
            f"{window.number}, {window.at:%Y-%m-%d %H:%M}",
            _result_of(window),
            f"{bar(window.evidence, window.line)} {window.evidence:,.0f}" if window.line else "",
            window.queries,
            window.low,
            window.threshold,
        )
        for window in reversed(drift.windows)
    ]
    if rows:
        lines = table(("window", "result", "evidence of drift", "queries", "low-score share", "threshold"), rows)
        lines.append(f"A full bar is the line of {drift.line:,.0f} that confirms drift, on a log scale.")
        _show("drift-history", lines, f"{len(rows)} windows; {drift.held or 'no retrain is on hold'}")


def _result_of(window: Window) -> str:
    if window.suspect:
        return "suspect"
    if window.repeats:
        return f"repeats window {window.repeats}"
    passed = window.line > 0 and window.evidence >= window.line
    return ", ".join(["drift"] * passed + ["unfamiliar"] * window.fired + ["worse"] * window.worse)


def negatives_sample(negatives: Negatives) -> None:
    """Publish a sample of mined negatives for a person to check for false negatives."""
    lines = []
    for sample in json.loads((negatives.path / "sample.json").read_text(encoding="utf-8")):
        lines += ["", f"**{escape(shorten(sample['query']))}**", ""]
        lines += [
            f"- {escape(shorten(negative['text']))} ({escape(negative['source'])}, rank {negative['rank']}, "
            f"score {_score(negative['dense_score'], negative['trail']['above_margin'])})"
            for negative in sample["negatives"][:2]
        ]
    _show("mined-negatives", lines, " ".join(describe_negatives(negatives)))


def embedding_progress(encoder: Encoder) -> Watch:
    """Return a callback that shows embedding progress in a Prefect artifact: share of passages, speed, time left."""
    artifacts: list[UUID] = []

    def watch(pace: Pace) -> None:
        percent, description = 100 * pace.share, escape(f"Encoder {encoder.fingerprint}, {pace}")
        try:
            if artifacts:
                update_progress_artifact(artifacts[0], percent, description)
            else:
                created = create_progress_artifact(percent, key="embedding", description=description)
                artifacts.append(cast(UUID, created))
        except Exception:  # showing progress must never stop the encoding
            get_run_logger().warning("Could not show the embedding progress", exc_info=True)

    return watch


def evaluation_table(decision: Decision, figures: Mapping[System, Evaluation]) -> None:
    """Publish the gate's decision, and the measures of every system on the same held-out queries."""
    action = "promote" if decision.promote else "reject"
    _show("evaluation", _measures(figures), f"{action}: {'; '.join(decision.reasons)}")


def release_card(release: Release) -> None:
    """Publish the facts of the new serving release, and how to undo it."""
    rows = [
        ("passages", f"{release.rows:,}"),
        *(
            (f"nDCG@10{of}", f"{figures['ndcg@10']:.4f}")
            for of, figures in (("", release.metrics), (" of BM25", release.bm25), (" of the base model", release.base))
            if figures
        ),
        ("ranking", str(release.ranking)),
        ("encoder", release.fingerprint),
        ("collection", release.collection),
        ("snapshot", release.snapshot),
        ("metric", f"{release.metric}, {release.dimension} dimensions"),
    ]
    lines = [f"# Release {escape(release.release)}", "", *table(("", ""), rows), "Undo: `nightshift rollback`"]
    _show("release-card", lines, f"Release {release.release}")


def _summary(settings: Settings, night: Night) -> list[str]:
    serves = night.serves.release if night.serves else "no release yet" if night.serving_known else "unchanged"
    lines = [f"# {night.outcome}", "", escape(night.why), "", f"- Serving: {escape(serves)}"]
    lines += [f"- The night {escape(str(night.refresh))}"] if night.refresh else []
    if night.failed_step:
        lines.append(f"- Failed step: {escape(night.failed_step)}")
    lines += [f"- Next step: {NEXT_STEPS[night.outcome]}"] if night.outcome in NEXT_STEPS else []
    lines += [f"- Report: {_report(settings, night)}", ""]
    if night.verdict:
        lines += [f"- {mark_of(finding).sign} {escape(finding.words)}" for finding in night.verdict.findings] + [""]
    lines += _measures(night.figures)
    steps = [
        (step.name, step.rows, f"{0 if step.reused else step.seconds:.1f}", step.avoided) for step in steps_of(night)
    ]
    return lines + table(("step", "rows", "seconds", "work avoided"), steps)


def _measures(figures: Mapping[System, Evaluation]) -> list[str]:
    rows: list[tuple[Cell, ...]] = [
        (LABELS[name], figure.rows, *(figure.metrics[key] for key in NAMES)) for name, figure in figures.items()
    ]
    return table(("system", "queries", *NAMES.values()), rows)


def _report(settings: Settings, night: Night) -> str:
    """Return a link to the report on the search service if [service] url is set, or else the report's path."""
    assert night.report is not None
    if url := settings.service.url:
        return f"[{night.report.stem}](<{url.rstrip('/')}/reports/{quote(night.report.name)}>)"
    return _code(night.report)


def _code(path: Path) -> str:
    return f"`{str(path).replace('`', '')}`"


def _score(score: float, of_positive: float | None) -> str:
    return f"{score:.3f}" if of_positive is None else f"{score:.3f}, {of_positive:.0%} of the positive"


def _show(key: str, lines: Sequence[str], description: str) -> None:
    create_markdown_artifact("\n".join(lines), key=key, description=escape(description))
