"""The commands around the settings file: init, settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from flows.options import SettingsFile, echo, fail, load, readable_errors

init = typer.Typer()


@init.command(
    name="init", epilog="Example: nightshift init collections/medquad, then: nightshift run --settings night.toml"
)
@readable_errors
def write_settings(
    source: Annotated[str, typer.Argument(metavar="PATH", help="Your data: a folder or a file, or s3://…")],
    to: Annotated[Path, typer.Option(help="The settings file to write; one that is there stays.")] = Path("night.toml"),
    home: Annotated[
        str, typer.Option(help="Where the nights of this data keep everything.", show_default="var/<name of PATH>")
    ] = "",
    query: Annotated[str, typer.Option(metavar="COLUMN", help="Of pairs in any columns: the one with the query.")] = "",
    passage: Annotated[str, typer.Option(metavar="COLUMN", help="… and the one with the passage.")] = "",
) -> None:
    """Look at data of your own and write a commented settings file for it: format, splits, token limits."""
    from flows.terminal_log import show_progress
    from tasks.core.ingest.source_summary import settings_text, summarize_source

    show_progress()
    if to.exists():
        fail(f"{to} is there already. Remove it, or name another: --to other.toml")
    summary = summarize_source(source, query, passage)
    to.write_text(settings_text(summary, _home(home, to) or f"var/{summary.name}"), encoding="utf-8")
    echo(
        f"{summary.format}: {summary.passages:,} passages, {summary.queries:,} queries, "
        f"{sum(summary.qrels.values()):,} qrels ({', '.join(summary.qrels)})"
    )
    for note in summary.notes:
        echo(note)
    for warning in summary.warnings:
        echo(f"warning: {warning}")
    if "train" not in summary.qrels:
        typer.echo("there is no train split, so a night has nothing to learn from: add qrels of train queries first")
    echo(f"wrote {to}; look it over, then: nightshift run --settings {shlex.quote(str(to))} --dry-run")


def _home(given: str, to: Path) -> str:
    """The home as the settings file has to name it: a relative one begins there at the file's folder."""
    elsewhere = to.parent.resolve() != Path.cwd()
    return str(Path(given).expanduser().absolute()) if given and elsewhere else given


@init.command(name="settings", epilog="Example: nightshift settings --settings night.toml > all.toml")
@readable_errors
def show_settings(settings: SettingsFile = None) -> None:
    """Print every dial with its meaning and the value it has, as a settings file."""
    from tasks.core.base.settings_listing import format_settings

    typer.echo(format_settings(load(settings)), nl=False)
