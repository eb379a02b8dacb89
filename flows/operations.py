"""Flows for manual operations on releases: roll back, prune, reindex."""

from __future__ import annotations

from pathlib import Path

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from prefect import flow  # isort: skip
from prefect.states import Completed, State

from flows.begun import record_begin
from flows.runs import one_publisher, run_name
from tasks import release
from tasks.core.base.settings_file import load_settings
from tasks.core.report.outcomes import Outcome


@flow(name="rollback", flow_run_name=run_name, on_running=[record_begin])
def rollback(settings_file: Path | None = None, to: str | None = None, reason: str = "manual") -> State[str]:
    """Serve an older release again, in seconds, without embedding. A night in progress becomes stale and stops.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.
        to: Release to serve, or the beginning of its name, such as r0001. Default: the release that served before.
        reason: Why you roll back. Becomes part of the run's name.
    """
    served = release.rollback(load_settings(settings_file), to or None)
    return Completed(name="Rolled back", message=f"release {served.release} serves", data=served.release)


@flow(name="prune", flow_run_name=run_name, on_running=[record_begin])
def prune(settings_file: Path | None = None) -> State[list[str]]:
    """Remove collections that retention no longer keeps or that crashed nights left. Every promoted night does this.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.
    """
    removed = release.prune(load_settings(settings_file))
    return Completed(message=f"{len(removed)} collections removed: {', '.join(removed) or 'none'}", data=removed)


@flow(name="reindex", flow_run_name=run_name, on_running=[record_begin])
def reindex(settings_file: Path | None = None, reason: str = "index settings") -> State[str]:
    """Rebuild the serving release's collection with the current index settings, and publish it. Embeds nothing.

    Args:
        settings_file: TOML settings file. Default: the file in NIGHTSHIFT_SETTINGS, or the built-in defaults.
        reason: Why you rebuild it. Stored with the release.
    """
    settings = load_settings(settings_file)
    with one_publisher(settings):
        reindexed = release.reindex(settings, reason)
        release.prune(settings)
    return Completed(name=Outcome.PROMOTED, message=f"release {reindexed.release} serves", data=reindexed.release)
