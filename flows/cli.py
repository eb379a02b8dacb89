"""The `nightshift` command. Heavy things are imported inside the commands, so that help is quick."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_init import init
from flows.cli_prefect import prefect
from flows.cli_releases import releases
from flows.cli_reports import reports
from flows.cli_search import asking
from flows.options import AsJson, SettingsFile, check_arguments, echo, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.settings import Settings

app = typer.Typer(
    epilog='Start with: nightshift run, then: nightshift search "read a csv file into a table"',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(init)
app.add_typer(asking)
app.add_typer(reports)
app.add_typer(releases, name="releases")
app.add_typer(prefect)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"nightshift {version('nightshift')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Makes a dense retriever better every night, safely: validate, mine, train, evaluate, embed, swap, serve."""
    if debug:
        os.environ["NIGHTSHIFT_DEBUG"] = "1"


def main() -> None:
    """Entry point of the command."""
    import flows.environment  # noqa: F401

    check_arguments(sys.argv[1:])
    app()


@app.command(epilog="Example: nightshift run --settings night.toml --reason 'new feed'")
@readable_errors
def run(
    settings: SettingsFile = None,
    reason: Annotated[str, typer.Option(help="Why this night runs; kept with its release.")] = "by hand",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate, and say what a night would do and cost; do no more.")
    ] = False,
) -> None:
    """Run one night, now. Exit 0: promoted, rejected or nothing to do. Exit 1: failed, and what served still serves."""
    loaded = load(settings)
    if dry_run:
        _say_plan(loaded)
        return
    from flows.local_prefect import join

    join(loaded.home)
    from flows.nightly import nightly
    from flows.run_night import leave, run_night
    from flows.temporary_prefect import a_server
    from flows.terminal import only_warnings_of_prefect
    from tasks.core.errors import BadUsage, explain
    from tasks.core.night import Night, last_line
    from tasks.core.plain_text import visible

    only_warnings_of_prefect()
    with a_server():
        outcome = run_night(nightly, settings, reason)
    if isinstance(outcome, Night):
        echo(last_line(outcome))
        leave(0)
    words = explain(outcome) if isinstance(outcome, Exception) else None
    words = words or f"{type(outcome).__name__}: {outcome}"
    message = visible(f"error: {words}\nThe night failed; the serving release is as it was.")
    typer.secho(message, fg="red", err=True)
    leave(2 if isinstance(outcome, BadUsage) else 1)


def _say_plan(settings: Settings) -> None:
    from flows.terminal_plan import print_plan
    from tasks.core.data.feed import refuse_another_feed
    from tasks.core.data.ingest import ingest
    from tasks.core.data_warnings import data_warnings
    from tasks.core.drift.verdict import assess
    from tasks.core.forecast import forecast
    from tasks.core.mining.bm25 import try_indexing
    from tasks.core.night import recipe_of
    from tasks.core.preflight import check_side_files
    from tasks.core.release.publish import serving

    echo(f"home {settings.home.absolute()}")
    check_side_files(settings)
    try_indexing(settings.home, settings.mining)
    release, _ = serving(settings)
    ingested, snapshot = ingest(settings)
    refuse_another_feed(settings, release, snapshot)
    drift = assess(settings.home, release, snapshot, recipe_of(settings), settings.drift)
    print_plan(ingested, drift, forecast(settings, snapshot, drift))
    for warning in data_warnings(settings, snapshot):
        echo(f"warning: {warning}")


@app.command(epilog="Example: nightshift rollback --to r0001-1a2b3c4d")
@readable_errors
def rollback(
    to: Annotated[str | None, typer.Option(help="The release to serve; else the one that served before.")] = None,
    settings: SettingsFile = None,
) -> None:
    """Serve an older release again. Moves the pointer; embeds nothing."""
    from tasks.core.release.publish import rollback as move_back

    release = move_back(load(settings), to)
    typer.echo(f"release {release.release} serves (snapshot {release.snapshot}, {release.rows} passages)")


@app.command(epilog="Example: nightshift drift --json")
@readable_errors
def drift(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Compare the source as it is now with the serving snapshot. Changes nothing that serves."""
    from tasks.core.data.feed import refuse_another_feed
    from tasks.core.data.ingest import ingest
    from tasks.core.drift.verdict import assess
    from tasks.core.night import recipe_of
    from tasks.core.release.publish import serving

    loaded = load(settings)
    release, _ = serving(loaded)
    _, snapshot = ingest(loaded)
    refuse_another_feed(loaded, release, snapshot)
    found = assess(loaded.home, release, snapshot, recipe_of(loaded), loaded.drift)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from flows.terminal import print_drift

    print_drift(found)


@app.command(epilog="Example: nightshift quarantine --json | jq '.rules[] | {rule, rows}'")
@readable_errors
def quarantine(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Show what the newest reading of the source refused, by rule, with samples; also that of a stopped night."""
    from tasks.core.data.refusals import newest_refusals

    found = newest_refusals(load(settings).home)
    if as_json:
        print_json(found)
        return
    from flows.terminal import print_refusals

    print_refusals(found)


@app.command(epilog="Example: nightshift doctor --settings night.toml")
@readable_errors
def doctor(settings: SettingsFile = None) -> None:
    """Check what a night needs: Java, disk, model, Milvus, Prefect; say how to mend each. Exit 1 when one fails."""
    from flows.doctor import examine
    from flows.terminal import print_checks

    checks = examine(load(settings))
    print_checks(checks)
    if not all(check.well for check in checks):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
