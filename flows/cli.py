"""The `nightshift` command. Heavy things are imported inside the commands, so that help is quick."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_init import init
from flows.cli_prefect import prefect
from flows.cli_releases import releases
from flows.cli_reports import reports
from flows.cli_search import search_commands
from flows.options import AsJson, SettingsFile, check_arguments, echo, load, print_json, readable_errors
from tasks.core.base.errors import BadUsage, NightshiftError, explain

if TYPE_CHECKING:
    from tasks.core.base.receipts import Ingested, Snapshot
    from tasks.core.base.settings import Settings
    from tasks.core.drift.findings import Drift

INTERRUPTED = (
    "interrupted: the night stopped. What served before still serves. "
    "The next night resumes after the last finished step."
)

app = typer.Typer(
    epilog='Start with: nightshift run, then: nightshift search "read a csv file into a table"',
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

app.add_typer(init)
app.add_typer(search_commands)
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
    debug: Annotated[bool, typer.Option("--debug", help="Show details, and the traceback of an error.")] = False,
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

    try:
        check_arguments(sys.argv[1:])
        app()
    except BaseException as end:
        _clear_frames(end)
        raise


def _clear_frames(end: BaseException) -> None:
    """Release what the frames of an error hold.

    Prefect keeps the error of a run until the process ends. A DuckDB connection in one of its frames would then
    outlive the interpreter, and DuckDB would print forty lines about that below the error.
    """
    cleared: set[int] = set()
    waiting: list[BaseException | None] = [end]
    while waiting:
        error = waiting.pop()
        if error is not None and id(error) not in cleared:
            cleared.add(id(error))
            traceback.clear_frames(error.__traceback__)
            waiting += [error.__cause__, error.__context__]


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
    from flows.terminal_log import announce, only_warnings_of_prefect

    if dry_run:
        announce("Reading the source, to forecast a night")
        _print_plan(load(settings))
        return
    announce(f"Starting a night ({reason}). Loading PyTorch and Prefect takes about 10 seconds.")
    loaded = load(settings)
    from flows.local_prefect import use_running_server

    use_running_server(loaded.home)
    from flows.nightly import nightly
    from flows.run_night import leave, run_night
    from flows.temporary_prefect import prefect_server
    from tasks.core.base.plain_text import visible
    from tasks.core.report.night import Night, outcome_line

    only_warnings_of_prefect()
    try:
        with prefect_server():
            outcome = run_night(nightly, settings, reason)
    except KeyboardInterrupt as interrupt:
        _clear_frames(interrupt)
        typer.secho(INTERRUPTED, fg="yellow", err=True)
        leave(130)
    if isinstance(outcome, Night):
        echo(outcome_line(outcome))
        leave(0)
    error = outcome if isinstance(outcome, Exception) else RuntimeError(repr(outcome))
    if os.environ.get("NIGHTSHIFT_DEBUG"):
        traceback.print_exception(error)
    words = explain(error) or f"{type(error).__name__}: {error}"
    typer.secho(visible(f"error: {words}\n{_after_failure(loaded, error)}"), fg="red", err=True)
    _clear_frames(error)
    leave(2 if isinstance(error, BadUsage) else 1)


def _after_failure(settings: Settings, error: Exception) -> str:
    """Which step failed, what serves, and where the report is."""
    from tasks.core.release.vector_stores import open_publisher
    from tasks.core.report.history import find_report
    from tasks.policy import step_of

    served, report = "What served before still serves.", ""
    with suppress(NightshiftError):  # Milvus may be what failed
        pointer = open_publisher(settings).serving()
        served = f"Release {pointer.release} still serves." if pointer else "No release serves yet."
    with suppress(NightshiftError):  # the night may have failed before its report
        path, night = find_report(settings.home)
        report = f" Report: {path}" if night["outcome"] == "Failed" else ""
    step = f" in the step “{name}”" if (name := step_of(error)) else ""
    return f"The night failed{step}. {served}{report}"


def _print_plan(settings: Settings) -> None:
    from flows.terminal_plan import print_plan
    from tasks.core.ingest.data_warnings import data_warnings
    from tasks.core.report.forecast import forecast
    from tasks.core.report.preflight import check_side_files
    from tasks.core.retrieval.bm25 import try_indexing

    echo(f"home {settings.home.absolute()}")
    check_side_files(settings)
    try_indexing(settings.home, settings.mining)
    ingested, snapshot, drift = _look(settings)
    print_plan(ingested, drift, forecast(settings, snapshot, drift))
    for warning in data_warnings(settings, snapshot):
        echo(f"warning: {warning}")


@app.command(epilog="Example: nightshift rollback --to r0001")
@readable_errors
def rollback(
    to: Annotated[
        str | None,
        typer.Option(help="The release to serve, or the beginning of its name; else the one that served before."),
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Serve an older release again. Moves the pointer; embeds nothing."""
    from tasks.core.release.publish import rollback as move_back

    release = move_back(load(settings), to)
    typer.echo(f"release {release.release} serves (snapshot {release.snapshot}, {release.rows:,} passages)")


@app.command(epilog="Example: nightshift drift --json")
@readable_errors
def drift(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Compare the source and the query log, as they are now, with the serving release. Remembers nothing."""
    from flows.terminal_log import announce

    announce("Comparing the source and the query log with the serving release")
    _, _, found = _look(load(settings))
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from flows.terminal import print_drift

    print_drift(found)


def _look(settings: Settings) -> tuple[Ingested, Snapshot, Drift]:
    """Read the source and decide what a night would do, without remembering it."""
    from tasks.core.drift.watch import watch
    from tasks.core.ingest.feed import refuse_another_feed
    from tasks.core.ingest.ingest import ingest
    from tasks.core.release.publish import serving
    from tasks.core.report.night import recipe_of

    release, _ = serving(settings)
    ingested, snapshot = ingest(settings)
    refuse_another_feed(settings, release, snapshot)
    drift = watch(settings, release, snapshot, recipe_of(settings), datetime.now(UTC), remember=False)
    return ingested, snapshot, drift


@app.command(epilog="Example: nightshift quarantine --json | jq '.rules[] | {rule, rows}'")
@readable_errors
def quarantine(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Show what the newest reading of the source refused, by rule, with samples; also that of a stopped night."""
    from tasks.core.ingest.refused_rows import newest_refusals

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
