"""The `nightshift` command. Commands import heavy dependencies themselves to keep `--help` fast."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli_feedback import feedback_commands
from flows.cli_forget import forget_command
from flows.cli_init import init
from flows.cli_label import label_commands
from flows.cli_prefect import prefect
from flows.cli_releases import releases
from flows.cli_reports import reports
from flows.cli_search import search_commands
from flows.cli_status import status_commands
from flows.options import AsJson, Panel, SettingsFile, check_arguments, echo, load, print_json, readable_errors
from tasks.core.base.errors import BadUsage, NightshiftError, explain

if TYPE_CHECKING:
    from tasks.core.base.receipts import Ingested, Snapshot
    from tasks.core.base.settings import Settings
    from tasks.core.drift.findings import Drift

INTERRUPTED = (
    "interrupted: the night stopped. The serving release is unchanged. "
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
app.add_typer(label_commands)
app.add_typer(reports)
app.add_typer(feedback_commands)
app.add_typer(releases, name="releases", rich_help_panel=Panel.DATA)
app.add_typer(forget_command)
app.add_typer(status_commands)
app.add_typer(prefect)


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

        typer.echo(f"nightshift {version('nightshift')}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show detailed logs and full tracebacks.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Improve a dense retriever every night: validate data, mine negatives, train, embed, evaluate, publish, serve."""
    if debug:
        os.environ["NIGHTSHIFT_DEBUG"] = "1"


def main() -> None:
    """Run the command line."""
    import flows.environment  # noqa: F401

    try:
        check_arguments(sys.argv[1:])
        app()
    except BaseException as error:
        _clear_frames(error)
        raise


def _clear_frames(error: BaseException) -> None:
    """Clear the local variables in the tracebacks of an error and of its causes.

    Prefect keeps a run's error until the process ends. A DuckDB connection in one of its frames would then outlive
    the interpreter, and DuckDB would print forty lines of warnings below the error.
    """
    cleared: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        current = pending.pop()
        if current is not None and id(current) not in cleared:
            cleared.add(id(current))
            traceback.clear_frames(current.__traceback__)
            pending += [current.__cause__, current.__context__]


@app.command(rich_help_panel=Panel.START, epilog="Example: nightshift run --settings night.toml --reason 'new feed'")
@readable_errors
def run(
    settings: SettingsFile = None,
    reason: Annotated[str, typer.Option(help="Why this night runs. Stored with its release.")] = "manual",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Validate the data, print what a night would do and cost, and stop.")
    ] = False,
) -> None:
    """Run one night now.

    Exit 0: promoted, rejected, or nothing to do. Exit 1: failed; the serving release is unchanged.
    """
    from flows.terminal_log import announce, only_warnings_of_prefect

    if dry_run:
        announce("Reading the source to forecast a night")
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
    message = explain(error) or f"{type(error).__name__}: {error}"
    typer.secho(visible(f"error: {message}\n{_after_failure(loaded, error)}"), fg="red", err=True)
    _clear_frames(error)
    leave(2 if isinstance(error, BadUsage) else 1)


def _after_failure(settings: Settings, error: Exception) -> str:
    """Describe which step failed, which release serves, and where the report is."""
    from tasks.core.release.vector_stores import open_publisher
    from tasks.core.report.history import find_report
    from tasks.core.report.outcomes import Outcome
    from tasks.policy import step_of

    served, report = "The serving release is unchanged.", ""
    with suppress(NightshiftError):  # the failure may be that Milvus is unreachable
        pointer = open_publisher(settings.home, settings.milvus).serving()
        served = f"Release {pointer.release} still serves." if pointer else "No release serves yet."
    with suppress(NightshiftError):  # the night may have failed before it wrote its report
        path, night = find_report(settings.home)
        report = f" Report: {path}" if night["outcome"] == Outcome.FAILED else ""
    step = f" in the step “{name}”" if (name := step_of(error)) else ""
    return f"The night failed{step}. {served}{report}"


def _print_plan(settings: Settings) -> None:
    from flows.terminal_plan import print_plan
    from tasks.core.ingest.data_warnings import data_warnings
    from tasks.core.report.forecast import forecast
    from tasks.core.report.preflight import check_side_files, check_teacher_settings
    from tasks.core.retrieval.bm25 import try_indexing

    echo(f"home {settings.home.absolute()}")
    check_side_files(settings.gate.golden, settings.encoder, settings.mining.cross_encoder)
    check_teacher_settings(settings.mining, settings.training)
    try_indexing(settings.home, settings.mining)
    ingested, snapshot, drift = _measure_drift(settings)
    print_plan(ingested, drift, forecast(settings, snapshot, drift))
    for warning in data_warnings(snapshot, settings.evaluation.split, settings.encoder, settings.milvus):
        echo(f"warning: {warning}")


@app.command(rich_help_panel=Panel.DATA, epilog="Example: nightshift rollback --to r0001")
@readable_errors
def rollback(
    to: Annotated[
        str | None,
        typer.Option(help="Release to serve, or the beginning of its name. Default: the release that served before."),
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Serve an older release again. Moves the pointer and embeds nothing."""
    from tasks.core.release.publish import rollback as move_back
    from tasks.core.report.tracking.outbox import track_serving

    loaded = load(settings)
    release = move_back(loaded, to)
    track_serving(loaded.home, loaded.tracking, release.release)
    typer.echo(f"release {release.release} serves (snapshot {release.snapshot}, {release.rows:,} passages)")


@app.command(rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift drift --json")
@readable_errors
def drift(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Compare the current source and query log with the serving release. Stores no drift state."""
    from flows.terminal_log import announce

    announce("Comparing the source and the query log with the serving release")
    _, _, comparison = _measure_drift(load(settings))
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    from flows.terminal import print_drift

    print_drift(comparison)


def _measure_drift(settings: Settings) -> tuple[Ingested, Snapshot, Drift]:
    """Read the source and decide what a night would do, without storing drift state."""
    from tasks.core.drift.watch import watch
    from tasks.core.ingest.feed import refuse_another_feed
    from tasks.core.ingest.ingest import ingest
    from tasks.core.release.publish import serving
    from tasks.core.report.night import recipe_of

    release, _ = serving(settings)
    ingested, snapshot = ingest(settings)
    if settings.makes_pairs:
        from tasks.core.synthesis.synthesize import add_synthetic_pairs

        snapshot, _ = add_synthetic_pairs(settings, snapshot, send=False)
    refuse_another_feed(settings.home, release, snapshot, settings.data)
    drift = watch(settings, release, snapshot, recipe_of(settings), datetime.now(UTC), remember=False)
    return ingested, snapshot, drift


@app.command(
    rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift quarantine --json | jq '.rules[] | {rule, rows}'"
)
@readable_errors
def quarantine(as_json: AsJson = False, settings: SettingsFile = None) -> None:
    """Show the rows that the last ingest refused, by rule, with samples. Includes stopped nights."""
    from tasks.core.ingest.refused_rows import newest_refusals

    refusals = newest_refusals(load(settings).home)
    if as_json:
        print_json(refusals)
        return
    from flows.terminal import print_refusals

    print_refusals(refusals)


@app.command(rich_help_panel=Panel.START, epilog="Example: nightshift doctor --settings night.toml")
@readable_errors
def doctor(settings: SettingsFile = None) -> None:
    """Check Java, disk, model, Milvus, and Prefect, and print a fix for each failure. Exit 1 if a check fails."""
    from flows.doctor import examine
    from flows.terminal import print_checks

    checks = examine(load(settings))
    print_checks(checks)
    if not all(check.passed for check in checks):
        raise typer.Exit(1)


if __name__ == "__main__":
    main()
