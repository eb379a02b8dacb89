"""The command `status`: what each collection serves, how good it is, and when its next night starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.options import AsJson, Panel, SettingsFiles, echo, load, print_json, readable_errors

if TYPE_CHECKING:
    from tasks.core.report.collections import CollectionStatus

status_commands = typer.Typer()


@status_commands.command(
    rich_help_panel=Panel.NIGHTS, epilog="Example: nightshift status --settings docs.toml --settings wiki.toml"
)
@readable_errors
def status(
    settings: SettingsFiles = None,
    as_json: AsJson = False,
    html: Annotated[Path | None, typer.Option(help="Also write one HTML page to this file.")] = None,
) -> None:
    """Show what each collection serves, how old and how good it is, its last night, and its next one."""
    from flows.collections import read_collections
    from tasks.core.report.collections import write_page

    if settings and len(settings) > 1:
        read_collections(settings)
    statuses = [read_status(file) for file in settings] if settings else [read_status(None)]
    if html is not None:
        write_page(statuses, html)
    if as_json:
        print_json([status.model_dump(mode="json") for status in statuses])
        return
    from flows.terminal_status import print_statuses

    print_statuses(statuses)
    if html is not None:
        echo(f"page: {html.absolute()}")


def read_status(file: Path | None) -> CollectionStatus:
    """Read the state of a collection, with its next and its running night."""
    from flows.begun import running_night
    from flows.collections import name_of
    from flows.local_prefect import GRACE
    from flows.schedules import next_due
    from flows.watchdog import missing_runs
    from tasks.core.report.collections import status_of

    loaded = load(file)
    state = status_of(loaded, name_of(file) or loaded.home.absolute().name)
    missing = sum(map(len, missing_runs(loaded.home, GRACE, state.at).values()))
    late = f"{missing} scheduled runs of the last two days did not start: run nightshift doctor" if missing else ""
    begun = running_night(loaded.home)
    return state.model_copy(
        update={
            "running_since": begun.at if begun else None,
            "next_night": next_due(loaded.home, "nightly", state.at),
            "problem": ". ".join(filter(None, (state.problem, late))),
        }
    )
