"""What a person does to releases between nights, as flows: roll back, prune, reindex."""

from __future__ import annotations

from pathlib import Path

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)

from prefect import flow  # isort: skip
from prefect.states import Completed, State

from flows.begun import record_begin
from flows.runs import one_publisher, run_name
from tasks import release
from tasks.core.base.settings_file import load_settings


@flow(name="rollback", flow_run_name=run_name, on_running=[record_begin])
def rollback(settings_file: Path | None = None, to: str | None = None, reason: str = "by hand") -> State[str]:
    """Serve an older release again, in seconds; nothing is embedded. A night under way becomes stale and ends.

    Args:
        settings_file: A TOML file; else the file that NIGHTSHIFT_SETTINGS names, else the defaults.
        to: The release to serve, or the beginning of its name, such as r0001; empty: the one that served before.
        reason: Why; it becomes part of the run's name.
    """
    served = release.rollback(load_settings(settings_file), to or None)
    return Completed(name="Rolled back", message=f"release {served.release} serves", data=served.release)


@flow(name="prune", flow_run_name=run_name, on_running=[record_begin])
def prune(settings_file: Path | None = None) -> State[list[str]]:
    """Remove collections that retention no longer keeps, and what crashed nights left. Nights do it as they end.

    Args:
        settings_file: A TOML file; else the file that NIGHTSHIFT_SETTINGS names, else the defaults.
    """
    removed = release.prune(load_settings(settings_file))
    return Completed(message=f"{len(removed)} collections removed: {', '.join(removed) or 'none'}", data=removed)


@flow(name="reindex", flow_run_name=run_name, on_running=[record_begin])
def reindex(settings_file: Path | None = None, reason: str = "index settings") -> State[str]:
    """Build the serving release's collection anew, with the index settings of today, and swap. Embeds nothing.

    Args:
        settings_file: A TOML file; else the file that NIGHTSHIFT_SETTINGS names, else the defaults.
        reason: Why; kept with the release.
    """
    settings = load_settings(settings_file)
    with one_publisher(settings):
        made = release.reindex(settings, reason)
        release.prune(settings)
    return Completed(name="Promoted", message=f"release {made.release} serves", data=made.release)
