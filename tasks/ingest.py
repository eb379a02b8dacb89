"""Tasks around the data: read, validate, snapshot, compare with what serves."""

from __future__ import annotations

from prefect import task

from tasks import report
from tasks.core.data.ingest import ingest
from tasks.core.drift.verdict import Drift, assess
from tasks.core.receipts import Ingested, Release, Snapshot
from tasks.core.settings import Settings
from tasks.policy import OVER_THE_WIRE, STEP


@task(name="validate", task_run_name="validate {settings.data.format} data", **OVER_THE_WIRE)
def validate(settings: Settings) -> tuple[Ingested, Snapshot]:
    """Run the contracts over the source; refused rows to quarantine, accepted rows into a snapshot."""
    ingested, snapshot = ingest(settings)
    report.contract_table(ingested, snapshot)
    return ingested, snapshot


@task(name="compare", task_run_name="compare with serving", **STEP)
def compare_with_serving(settings: Settings, serving: Release | None, snapshot: Snapshot, recipe: str) -> Drift:
    """Decide the least work that is enough."""
    drift = assess(settings.home, serving, snapshot, recipe, settings.drift)
    report.drift_table(drift)
    return drift
