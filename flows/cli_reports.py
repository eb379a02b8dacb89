"""The commands that look back: the page of a night, and two systems side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.options import AsJson, SettingsFile, load, print_json, readable_errors

reports = typer.Typer()


@reports.command(epilog="Example: xdg-open $(nightshift report)")
@readable_errors
def report(
    run: Annotated[
        str | None, typer.Argument(help="A release, or how a night's page is called: 2026-03-01. Without it the last.")
    ] = None,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Print the path of a night's report, one HTML page."""
    from tasks.core.report.history import find_report

    path, row = find_report(load(settings).home, run)
    if as_json:
        print_json({"report": str(path), **row})
    else:
        typer.echo(path)


@reports.command(epilog="Example: nightshift compare bm25 serving")
@readable_errors
def compare(
    one: Annotated[
        str,
        typer.Argument(
            metavar="A", help="A release such as r0001, “serving”, “base”, “bm25”, or an evaluation's digest."
        ),
    ],
    other: Annotated[str, typer.Argument(metavar="B", help="The same; gains are those of B over A.")],
    cases: Annotated[int, typer.Option(min=0, help="How many queries to show of each kind.")] = 5,
    trec: Annotated[
        Path | None, typer.Option(help="Write both runs and the qrels into this folder, in TREC's form.")
    ] = None,
    as_json: AsJson = False,
    settings: SettingsFile = None,
) -> None:
    """Compare two systems query by query on the same held-out queries and passages."""
    from tasks.core.report.compare import compare_systems, export

    loaded = load(settings)
    found = compare_systems(loaded, one, other, cases)
    if trec is not None:
        export(loaded.home, found, trec)
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    from flows.terminal import print_comparison

    print_comparison(found)
