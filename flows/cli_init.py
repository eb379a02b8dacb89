"""Commands that write and show settings files: init, settings."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import Panel, SettingsFile, echo, fail, load, readable_errors
from tasks.core.snapshot.splits import Split

if TYPE_CHECKING:
    from tasks.core.base.sections.release import MilvusSettings

init = typer.Typer()


@init.command(
    rich_help_panel=Panel.START,
    name="init",
    epilog="Example: nightshift init collections/medquad, then: nightshift run --settings night.toml",
)
@readable_errors
def write_settings(
    source: Annotated[str, typer.Argument(metavar="PATH", help="Your data: a folder or a file, or s3://…")],
    to: Annotated[Path, typer.Option(help="Settings file to write. An existing file is never overwritten.")] = Path(
        "night.toml"
    ),
    home: Annotated[
        str, typer.Option(help="Folder for all artifacts of this data.", show_default="var/<name of PATH>")
    ] = "",
    query: Annotated[str, typer.Option(metavar="COLUMN", help="For query-passage pairs: column of the query.")] = "",
    passage: Annotated[
        str, typer.Option(metavar="COLUMN", help="For query-passage pairs: column of the passage.")
    ] = "",
    milvus: Annotated[
        str, typer.Option(metavar="URI", help="Address of a Milvus server.", show_default="the embedded Milvus")
    ] = "",
    cold: Annotated[
        bool, typer.Option("--cold", help="Your data has no queries: make training pairs from the passages.")
    ] = False,
) -> None:
    """Inspect your data and write a commented settings file for it: format, splits, token limits, language, index."""
    from flows.terminal_log import show_progress
    from tasks.core.ingest.milvus_choice import warn_of_embedded_limit
    from tasks.core.ingest.source_summary import settings_text, summarize_source
    from tasks.core.retrieval.language_notes import with_language

    show_progress()
    if to.exists():
        fail(f"{to} exists already. Remove it, or choose another file: --to other.toml")
    place = _milvus(milvus)
    summary = with_language(summarize_source(source, query, passage, cold=cold))
    to.write_text(settings_text(summary, _home(home, to) or f"var/{summary.name}", milvus), encoding="utf-8")
    labels = f"{summary.queries:,} queries, {sum(summary.qrels.values()):,} qrels ({', '.join(summary.qrels)})"
    echo(
        f"{summary.format}: {summary.passages:,} passages, {'no queries' if cold else labels}; language "
        f"{summary.language}"
    )
    for note in summary.notes:
        echo(note)
    for warning in (*summary.warnings, *warn_of_embedded_limit(summary.passages, place)):
        echo(f"warning: {warning}")
    if cold:
        echo(
            "Each night makes training pairs from the passages. The quality on real queries stays unmeasured until you"
        )
        echo("label some: see infra/docs/cold-start.md")
    elif Split.TRAIN not in summary.qrels:
        typer.echo(
            "no train split: a night has no training data. Add qrels of train queries, or run nightshift init --cold"
        )
    echo(f"wrote {to}. Check it, then run: nightshift run --settings {shlex.quote(str(to))} --dry-run")


def _milvus(uri: str) -> MilvusSettings:
    """Return the settings of a Milvus server at `uri`, or of the embedded Milvus; raise BadUsage for a bad address."""
    from pydantic import ValidationError

    from tasks.core.base.errors import BadUsage
    from tasks.core.base.sections.release import MilvusSettings

    try:
        return MilvusSettings(uri=uri)
    except ValidationError as error:
        raise BadUsage(
            "; ".join(str(fault["msg"]).replace("Value error", "--milvus") for fault in error.errors())
        ) from error


def _home(home: str, to: Path) -> str:
    """Return `home` as written to the settings file, where a relative path starts at the file's folder."""
    elsewhere = to.parent.resolve() != Path.cwd()
    return str(Path(home).expanduser().absolute()) if home and elsewhere else home


@init.command(
    rich_help_panel=Panel.START, name="settings", epilog="Example: nightshift settings --settings night.toml > all.toml"
)
@readable_errors
def show_settings(settings: SettingsFile = None) -> None:
    """Print every setting with its meaning and current value, as a settings file."""
    from tasks.core.base.settings_listing import format_settings

    typer.echo(format_settings(load(settings)), nl=False)
