"""Commands that show or send results: the report of a night, the comparison of two systems, the tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, Panel, SettingsFile, load, print_json, readable_errors

reports = typer.Typer()


@reports.command(rich_help_panel=Panel.NIGHTS, epilog="Example: xdg-open $(nightshift report)")
@readable_errors
def report(
    run: Annotated[
        str | None,
        typer.Argument(help="A release, or the start of a night, such as 2026-03-01. Default: the last night."),
    ] = None,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Print the path of a night's report (one HTML page)."""
    from tasks.core.report.history import find_report

    path, row = find_report(load(settings).home, run)
    if as_json:
        print_json({"report": str(path), **row})
    else:
        typer.echo(path)


@reports.command(rich_help_panel=Panel.QUERY, epilog="Example: nightshift compare bm25 serving")
@readable_errors
def compare(
    a: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A release such as r0001, “serving”, “base”, “bm25”, or an evaluation's digest."
        ),
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Same choices as A. Gains are those of B over A.")],
    cases: Annotated[int, typer.Option(min=0, help="Number of worst and of best queries to show.")] = 5,
    trec: Annotated[
        Path | None, typer.Option(help="Write both runs and the qrels to this folder, in TREC format.")
    ] = None,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Compare two systems, query by query, on the same held-out queries and passages."""
    from tasks.core.report.compare import compare_systems, export

    loaded = load(settings)
    comparison = compare_systems(loaded, a, b, cases)
    if trec is not None:
        export(loaded.home, comparison, trec)
    if as_json:
        print_json(comparison.model_dump(mode="json"))
        return
    from flows.terminal import print_comparison

    print_comparison(comparison)


@reports.command(rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift track --settings night.toml")
@readable_errors
def track(settings: SettingsFile = None) -> None:
    """Send the nights and rollbacks that the experiment tracker did not get yet."""
    from tasks.core.report.tracking.outbox import send_all

    loaded = load(settings)
    typer.echo(f"sent {send_all(loaded.home, loaded.tracking)} to {loaded.tracking.tracker}")
