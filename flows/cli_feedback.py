"""The command that records judgments of people: judge."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import Annotated

import typer

from flows.options import Panel, SettingsFile, echo, load, readable_errors

feedback_commands = typer.Typer()


@feedback_commands.command(
    rich_help_panel=Panel.DATA, epilog='Example: nightshift judge "read a csv file" pandas.read_csv --relevant'
)
@readable_errors
def judge(
    query: Annotated[str | None, typer.Argument(help="The text of the query.")] = None,
    passage: Annotated[str | None, typer.Argument(help="The id of the passage.")] = None,
    relevant: Annotated[
        bool | None,
        typer.Option(
            "--relevant/--not-relevant",
            help="Relevant: a training pair, never a negative. Not relevant: a negative, never a training pair.",
        ),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option(help="File with one judgment per line: query, passage id, and 1 or 0 between tabs, or JSON."),
    ] = None,
    by: Annotated[str, typer.Option(help="Name of the person who judged. Default: the user name.")] = "",
    settings: SettingsFile = None,
) -> None:
    """Record whether a passage is relevant to a query. The next night trains on it; it outranks the source and votes.

    The last judgment of a person about a pair counts. If people disagree, the pair goes to the quarantine. Judgments
    never change held-out queries.
    """
    if (file is None) == (query is None or passage is None or relevant is None):
        raise typer.BadParameter("give QUERY, PASSAGE, and --relevant or --not-relevant, or give --file alone")
    if file is not None and (query is not None or relevant is not None):
        raise typer.BadParameter("--file contains the judgments; give nothing else")
    from tasks.core.ingest.judge import Judgment, read_judgments, record_judgments
    from tasks.core.sources.feedback_log import Origin, log_file

    home = load(settings).home
    judgments = [Judgment(query or "", passage or "", bool(relevant))] if file is None else read_judgments(file)
    record_judgments(home, judgments, by or getpass.getuser())
    count = sum(judgment.relevant for judgment in judgments)
    echo(
        f"recorded {len(judgments):,} {'judgment' if len(judgments) == 1 else 'judgments'} ({count:,} relevant, "
        f"{len(judgments) - count:,} not relevant) in {log_file(home, Origin.JUDGE)}; the next night uses them"
    )
