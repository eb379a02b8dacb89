"""The commands around a Prefect of one's own: up and down."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import SettingsFile, fail, load, readable_errors

prefect = typer.Typer()


@prefect.command(epilog="Example: nightshift up --settings night.toml")
@readable_errors
def up(
    settings: SettingsFile = None,
    port: Annotated[int, typer.Option(help="Port of the server and its UI, on this machine only.")] = 4200,
    deployments: Annotated[
        Path | None, typer.Option(help="A copy of infra/prefect.yaml with your own schedules.")
    ] = None,
) -> None:
    """Start a Prefect server, a worker and all deployments on this machine. Safe to run again.

    Nights come at 02:00 UTC from then on, and drift is looked at every hour. It asks for a login: it is in the file
    that is named when it is up. Without a settings file the demo corpus is used.
    """
    from flows.local_prefect import running, start

    loaded = load(settings)
    before = running(loaded.home)
    typer.echo("the server runs already" if before else "starting a Prefect server, which takes some 20 seconds")
    now = start(loaded.home, settings, deployments, port)
    folder = loaded.home.absolute() / "prefect"
    typer.echo(f"Prefect is up: {now.url}  (login: what {folder / 'login'} holds)")
    typer.echo(f"logs: {folder / 'server.log'} and worker.log")
    typer.echo("a night at once: nightshift run, or the nightly deployment in the UI.  to end it all: nightshift down")


@prefect.command(epilog="Example: nightshift down --now")
@readable_errors
def down(
    now: Annotated[bool, typer.Option("--now", help="Also when a run is under way; the next one goes on.")] = False,
    settings: SettingsFile = None,
) -> None:
    """End what `nightshift up` started."""
    from flows.local_prefect import running, runs_under_way, stop

    home = load(settings).home
    known = running(home)
    if known is None:
        typer.echo(f"nothing runs that was started on {home.absolute()}")
        return
    busy = [] if now else runs_under_way(home, known)
    if busy:
        fail(f"under way: {', '.join(busy)}. Wait for it, or end it too: nightshift down --now")
    stop(home, known)
    typer.echo("server and worker ended")
