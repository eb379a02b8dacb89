"""Commands for a local Prefect server: up, down, watchdog."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Panel, SettingsFile, SettingsFiles, fail, load, readable_errors

if TYPE_CHECKING:
    from datetime import datetime

    from flows.running import Running
    from flows.schedules import Schedule

prefect = typer.Typer()

Grace = Annotated[
    float, typer.Option(help="Minutes that a scheduled run may start late before the watchdog sends an alert.")
]


@prefect.command(
    rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift up --settings docs.toml --settings wiki.toml"
)
@readable_errors
def up(
    settings: SettingsFiles = None,
    port: Annotated[int, typer.Option(help="Port of the server and its UI, reachable from this machine only.")] = 4200,
    deployments: Annotated[
        Path | None, typer.Option(help="A copy of infra/prefect.yaml with your own schedules.")
    ] = None,
    grace: Grace = 10,
    nights: Annotated[
        int, typer.Option(min=1, help="Several settings files: nights, and drift checks, that may run at once.")
    ] = 1,
) -> None:
    """Start a Prefect server, a worker, and all deployments on this machine. Safe to run again.

    A night starts at 02:00 UTC every day, and a drift check every hour. The command waits until the server has
    scheduled them and prints their start times. A watchdog restarts a dead server or worker, and sends an alert to
    NIGHTSHIFT_ALERT_URL when a scheduled run does not start. The UI needs a login; the command prints the file that
    holds it. Without a settings file, the demo corpus is used. Several settings files run collections side by side,
    each named after its file; server and logs are in the home of the first.
    """
    from datetime import timedelta

    from flows.collections import read_collections
    from flows.local_prefect import prefect_folder, running, start, wait_until_scheduled
    from flows.status_page import status_page

    files = settings or []
    home = load(files[0] if files else None).home
    collections = read_collections(files) if len(files) > 1 else []
    already_up = running(home) is not None
    typer.echo("the server is already running" if already_up else "starting a Prefect server (about 20 seconds)")
    file = files[0] if files else None
    server = start(home, file, deployments, port, timedelta(minutes=grace), collections, nights)
    folder = prefect_folder(home)
    typer.echo(f"Prefect is up: {server.url}  (login: in {folder / 'login'})")
    print_next_runs(wait_until_scheduled(home, server), server)
    typer.echo(f"logs: {folder / 'server.log'}, worker.log, and watchdog.log")
    if collections:
        typer.echo(f"all collections on one page: {status_page(home)}")
    typer.echo("Run a night now: nightshift run, or the nightly deployment in the UI. Stop: nightshift down")


def print_next_runs(planned: Sequence[tuple[Schedule, datetime]], server: Running) -> None:
    """Print when the next run of each schedule starts."""
    from datetime import UTC, datetime

    from flows.schedules import display_name, display_time

    now = datetime.now(UTC)
    for schedule, when in sorted(planned, key=lambda plan: plan[1]):
        typer.echo(f"next {display_name(schedule.deployment)}: {display_time(when, now)}")
    names = [collection.name for collection in server.collections] or [""]
    for deployment in (f"{flow}-{name}".removesuffix("-") for name in names for flow in ("nightly", "watch-drift")):
        if deployment not in {schedule.deployment for schedule, _ in planned}:
            typer.echo(f"next {display_name(deployment)}: no schedule")


@prefect.command(rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift down --now")
@readable_errors
def down(
    now: Annotated[
        bool,
        typer.Option(
            "--now", help="Stop even if a run is in progress. The next run resumes from its last finished step."
        ),
    ] = False,
    settings: SettingsFile = None,
) -> None:
    """Stop the server, worker, and watchdog that `nightshift up` started."""
    from flows.local_prefect import active_runs, running, started, stop

    home = load(settings).home
    server = started(home)
    if server is None:
        typer.echo(f"no server was started on {home.absolute()}")
        return
    active = [] if now or running(home) is None else active_runs(home, server)
    if active:
        fail(f"in progress: {', '.join(active)}. Wait until it has finished, or stop it too: nightshift down --now")
    stop(home, server)
    typer.echo("server and worker ended")


@prefect.command(
    rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift watchdog || echo 'a scheduled run is missing'"
)
@readable_errors
def watchdog(settings: SettingsFile = None, grace: Grace = 10) -> None:
    """Check once whether all scheduled runs started; for cron. Exit 1 if a run is missing.

    Compares the runs that started with the schedules of the Prefect server at PREFECT_API_URL (or of `nightshift
    up`). Stores the schedules in home, so later checks work without the server. Reports each missing run once to
    NIGHTSHIFT_ALERT_URL, if set. Exits 1 as long as the run is missing.
    """
    from datetime import UTC, datetime, timedelta

    from flows.collections import name_of
    from flows.local_prefect import api_of, running
    from flows.prefect_api import PrefectApi
    from flows.watchdog import check_once, missing_runs, send_alerts

    home = load(settings).home
    server = running(home)
    tolerance = timedelta(minutes=grace)
    api = api_of(home, server) if server else PrefectApi.configured()
    send_alerts(check_once(home, tolerance, api, name_of(settings)))
    missing = missing_runs(home, tolerance, datetime.now(UTC))
    if missing:
        fail("; ".join(f"{name}: {len(times)} scheduled runs did not start" for name, times in missing.items()))
    typer.echo("every scheduled run started")
