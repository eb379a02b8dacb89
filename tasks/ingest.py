"""Tasks that read and validate data, compare it with the serving release, and announce drift."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from prefect import task
from prefect.events import emit_event

from tasks import report
from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Ingested, Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.drift.appended_rows import with_appended_rows
from tasks.core.drift.changed_passages import explain_suspect_passages
from tasks.core.drift.findings import Action, Drift
from tasks.core.drift.new_queries import ServingRelease
from tasks.core.drift.watch import read_state, state_file, watch, with_unfamiliar
from tasks.core.ingest.feed import refuse_another_feed
from tasks.core.ingest.ingest import find_ingested, ingest
from tasks.core.ingest.serving_queries import combine_snapshots
from tasks.core.report import preflight
from tasks.core.sources.appended import find_appended
from tasks.policy import OVER_THE_WIRE, STEP

log = logging.getLogger("nightshift.ingest")


@task(name="validate", task_run_name="validate {settings.data.shown} data", **OVER_THE_WIRE)
def validate(settings: Settings) -> tuple[Ingested, Snapshot]:
    """Check the source against the contracts: quarantine refused rows, write accepted rows to a snapshot."""
    ingested, snapshot = ingest(settings)
    report.contract_table(ingested, snapshot)
    return ingested, snapshot


@task(name="synthesize", task_run_name="make training pairs from passages", **OVER_THE_WIRE)
def synthesize(settings: Settings, snapshot: Snapshot) -> tuple[Snapshot, Synthesis | None]:
    """Add training pairs made from the passages, if the settings ask for them; otherwise return the snapshot."""
    if not settings.makes_pairs:
        return snapshot, None
    from tasks.core.synthesis.synthesize import add_synthetic_pairs  # imports torch

    return add_synthetic_pairs(settings, snapshot)


@task(name="check", task_run_name="check files and Java", **STEP)
def check_side_files(settings: Settings) -> None:
    """Stop a night at its start if Java, a teacher, or a file that it reads later is missing."""
    preflight.check_side_files(settings.gate.golden, settings.encoder, settings.mining.cross_encoder)
    preflight.check_teacher_settings(settings.mining, settings.training)


@task(name="warn", task_run_name="warn of missing or truncated data", **OVER_THE_WIRE)
def warn_of_data(settings: Settings, snapshot: Snapshot) -> None:
    """Warn if held-out queries are few, the token limit cuts most passages, or they are too many for the Milvus."""
    from tasks.core.ingest import data_warnings  # imports torch

    for warning in data_warnings.data_warnings(snapshot, settings.evaluation.split, settings.encoder, settings.milvus):
        log.warning("%s", warning)


@task(name="compare", task_run_name="compare with serving", **STEP)
def compare_with_serving(
    settings: Settings, serving: Release | None, snapshot: Snapshot, recipe: str, retrain_because: str = ""
) -> Drift:
    """Decide the action of the night: the least work that is enough. `retrain_because` forces a retrain.

    Raises BadInput when the source is a different collection than the serving one.
    """
    refuse_another_feed(settings.home, serving, snapshot, settings.data)
    drift = watch(settings, serving, snapshot, recipe, datetime.now(UTC))
    if retrain_because:
        learned = serving is not None and (serving.snapshot, serving.recipe) == (snapshot.digest, recipe)
        drift = with_unfamiliar(settings.home, drift.at_least_a_retrain(retrain_because, learnt=learned))
    _report(drift)
    return drift


@task(name="compare-appended", task_run_name="compare appended rows with serving", **STEP)
def compare_appended(settings: Settings, serving: Release | None, recipe: str) -> Drift | None:
    """Decide the action without reading the source, if rows were only appended to it since its last ingest.

    Returns None if the source must be read: it changed in another way, requested labels may have arrived, the check
    would ask for labels although there is new data, or training pairs are made from passages. New queries in the source
    are compared when the next night reads it; those in the log are now.
    """
    appended = find_appended(settings.data, settings.home)
    if serving is None or appended is None or settings.makes_pairs:
        return None
    snapshot = find_ingested(settings.home, appended.before, settings.data, settings.feedback.votes)
    served = find_artifact(settings.home, Snapshot, serving.snapshot)
    if snapshot is None or served is None:
        return None
    if appended.pairs and read_state(state_file(settings.home)).labels_wanted:
        return None
    drift = watch(settings, serving, snapshot, recipe, datetime.now(UTC), unless=Action.LABEL)
    if drift.verdict is Action.LABEL:
        return None
    release = ServingRelease(settings.home, serving, served, settings.embedding)
    drift = with_appended_rows(drift, release, appended.passages, appended.pairs, settings.drift)
    _report(drift)
    return drift


def _report(drift: Drift) -> None:
    report.drift_table(drift)
    report.drift_history(drift)
    for step in drift.advice:
        log.warning("%s", step)
    if drift.verdict is Action.LABEL:
        report.unfamiliar_queries(drift)
        log.warning("Label these %d unfamiliar queries. Full list: %s", len(drift.unfamiliar), drift.unfamiliar_file)
        for query in drift.unfamiliar:
            log.warning("  %s", query)


@task(name="separate", task_run_name="separate passages from suspect queries", **STEP)
def with_serving_queries(settings: Settings, serving: Release | None, snapshot: Snapshot) -> tuple[Snapshot, str]:
    """Return the night's passages with the queries of the serving release, and why not to publish them, if so.

    On a suspect night, the queries must not reach a release: they would become the reference for later drift checks.
    """
    served = None if serving is None else find_artifact(settings.home, Snapshot, serving.snapshot)
    if serving is None or served is None:
        return snapshot, "the snapshot of the serving release is lost"
    reason = explain_suspect_passages(ServingRelease(settings.home, serving, served, settings.embedding), snapshot)
    if reason:
        return snapshot, reason
    combined = combine_snapshots(settings.home, snapshot, served)
    split = settings.evaluation.split
    return combined, "" if split in combined.splits else f"no judged passage of the {split} queries is left"


@task(name="announce", task_run_name="announce: {drift.verdict}", **STEP)
def announce(settings: Settings, serving: Release | None, drift: Drift) -> str:
    """Emit the drift action as the event `nightshift.drift.<name>`; return the name, which is also the run's state."""
    name = _state_name(drift)
    emit_event(
        event=f"nightshift.drift.{name.lower()}",
        resource={
            "prefect.resource.id": f"nightshift.retriever.{settings.milvus.alias}",
            "prefect.resource.name": f"retriever {settings.milvus.alias}",
        },
        payload={
            "verdict": str(drift.verdict),
            "reason": drift.cause,
            "held": drift.held,
            "window": drift.window,
            "evidence": drift.evidence,
            "line": drift.line,
            "topics": [topic.name for topic in drift.topics],
            "advice": list(drift.advice),
            "release": serving.release if serving else None,
            "signals": [signal.model_dump() for signal in drift.signals],
        },
    )
    return name


def _state_name(drift: Drift) -> str:
    if drift.trigger:
        return "Retrain"
    if drift.verdict is Action.RETRAIN or drift.held:
        return "Drifting"  # the next night retrains, or the retrain is on hold
    return {Action.SKIP: "Quiet", Action.REFRESH: "Changed", Action.SUSPECT: "Suspect", Action.LABEL: "Unlabeled"}[
        drift.verdict
    ]
