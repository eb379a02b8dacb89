"""The commands around a Prefect server: up, down, and watchdog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import SettingsFile, fail, load, readable_errors

if TYPE_CHECKING:
    from datetime import datetime

    from flows.schedules import Schedule

prefect = typer.Typer()

Grace = Annotated[float, typer.Option(help="Minutes that a scheduled run may begin late before the watchdog alerts.")]


@prefect.command(epilog="Example: nightshift up --settings night.toml")
@readable_errors
def up(
    settings: SettingsFile = None,
    port: Annotated[int, typer.Option(help="Port of the server and its UI, on this machine only.")] = 4200,
    deployments: Annotated[
        Path | None, typer.Option(help="A copy of infra/prefect.yaml with your own schedules.")
    ] = None,
    grace: Grace = 10,
) -> None:
    """Start a Prefect server, a worker, and all deployments on this machine. Safe to run again.

    From then on a night begins at 02:00 UTC, and a drift check every hour. The command waits until the server has
    planned them, and prints when they begin. A watchdog restarts a dead server or worker, and sends an alert to
    NIGHTSHIFT_ALERT_URL when a scheduled run does not begin. The UI needs a login: it is in the file that the command
    prints. Without a settings file the demo corpus is used.
    """
    from datetime import timedelta

    from flows.local_prefect import prefect_folder, running, start, wait_until_scheduled

    loaded = load(settings)
    before = running(loaded.home)
    typer.echo("the server runs already" if before else "starting a Prefect server, which takes about 20 seconds")
    now = start(loaded.home, settings, deployments, port, timedelta(minutes=grace))
    folder = prefect_folder(loaded.home)
    typer.echo(f"Prefect is up: {now.url}  (login: in {folder / 'login'})")
    print_next_runs(wait_until_scheduled(loaded.home, now))
    typer.echo(f"logs: {folder / 'server.log'}, worker.log, and watchdog.log")
    typer.echo("run a night now: nightshift run, or the nightly deployment in the UI.  stop: nightshift down")


def print_next_runs(planned: Sequence[tuple[Schedule, datetime]]) -> None:
    """Print when the next run of each schedule begins."""
    from datetime import UTC, datetime

    from flows.schedules import spoken_name, spoken_time

    now = datetime.now(UTC)
    for schedule, when in sorted(planned, key=lambda plan: plan[1]):
        typer.echo(f"next {spoken_name(schedule.deployment)}: {spoken_time(when, now)}")
    for name in ("nightly", "watch-drift"):
        if name not in {schedule.deployment for schedule, _ in planned}:
            typer.echo(f"next {spoken_name(name)}: no schedule")


@prefect.command(epilog="Example: nightshift down --now")
@readable_errors
def down(
    now: Annotated[
        bool, typer.Option("--now", help="Stop even if a run is in progress; the next one resumes.")
    ] = False,
    settings: SettingsFile = None,
) -> None:
    """Stop what `nightshift up` started."""
    from flows.local_prefect import running, runs_under_way, started, stop

    home = load(settings).home
    known = started(home)
    if known is None:
        typer.echo(f"nothing runs that was started on {home.absolute()}")
        return
    busy = [] if now or running(home) is None else runs_under_way(home, known)
    if busy:
        fail(f"in progress: {', '.join(busy)}. Wait for it, or stop it too: nightshift down --now")
    stop(home, known)
    typer.echo("server and worker ended")


@prefect.command(epilog="Example: nightshift watchdog || echo 'a scheduled run is missing'")
@readable_errors
def watchdog(settings: SettingsFile = None, grace: Grace = 10) -> None:
    """Check once whether scheduled runs began; for cron. Exit 1 when one is missing.

    Computes from the schedules of the Prefect server of PREFECT_API_URL (or of `nightshift up`) when runs should have
    begun. Stores the schedules below home: later checks work without the server. Reports each missing run once, to
    NIGHTSHIFT_ALERT_URL if set, and exits 1 as long as it is missing.
    """
    from datetime import UTC, datetime, timedelta

    from flows.local_prefect import api_of, running
    from flows.prefect_api import PrefectApi
    from flows.watchdog import check_once, missing_runs, tell

    home = load(settings).home
    known = running(home)
    late = timedelta(minutes=grace)
    tell(check_once(home, late, api_of(home, known) if known else PrefectApi.configured()))
    missing = missing_runs(home, late, datetime.now(UTC))
    if missing:
        fail("; ".join(f"{name}: {len(times)} scheduled runs did not begin" for name, times in missing.items()))
    typer.echo("every scheduled run began")
