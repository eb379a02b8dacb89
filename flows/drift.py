"""Flows that check queries and passages for drift between nights, and retrain when they drifted."""

from __future__ import annotations

from pathlib import Path

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from prefect import flow  # isort: skip
from prefect.states import Completed, State

from flows.begun import record_begin
from flows.nightly import whole_night
from flows.runs import limited_check, run_name
from tasks import ingest, release
from tasks.core.base.settings_file import load_settings
from tasks.core.drift.findings import Drift
from tasks.core.report.night import Night, recipe_of


@flow(name="watch-drift", flow_run_name=run_name, on_running=[record_begin])
def watch_drift(settings_file: Path | None = None) -> State[Drift]:
    """Compare the source and the query log with the serving release, and emit the action as a Prefect event.

    Reads the source only if it changed in another way than by appended rows.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.

    Returns:
        Completed as Quiet, Changed, Drifting, Retrain, Unlabeled, or Suspect; the drift result is its data.
    """
    settings = load_settings(settings_file)
    with limited_check():
        serving, _ = release.reconcile(settings)
        recipe = recipe_of(settings)
        drift = ingest.compare_appended(settings, serving, recipe)
        if drift is None:
            snapshot, _ = ingest.synthesize(settings, ingest.validate(settings)[1])
            drift = ingest.compare_with_serving(settings, serving, snapshot, recipe)
    name = ingest.announce(settings, serving, drift)
    return Completed(name=name, message=drift.cause, data=drift)


@flow(name="retrain-on-drift", flow_run_name=run_name, on_running=[record_begin])
def retrain_on_drift(settings_file: Path | None = None, reason: str = "drift: manual") -> State[Night]:
    """Run a night that always retrains, even if little has changed.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.
        reason: What drifted. Stored with the release. The automation fills it in from the drift event.

    Returns:
        The state of the night, as `nightly` returns it.
    """
    return whole_night(load_settings(settings_file), reason, retrain=True)
