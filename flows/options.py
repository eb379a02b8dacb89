"""What all commands have in common: their options, readable errors, JSON."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec, TypeVar

import typer

from flows.console import escape_controls
from tasks.core.base.plain_text import check_text, visible

if TYPE_CHECKING:
    from tasks.core.base.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML settings; without it the defaults: the demo corpus.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]


def readable_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Show an error as its message; with --debug (or NIGHTSHIFT_DEBUG=1) the traceback instead.

    Exits 2 for settings, options and queries that cannot be used, 1 for every other error.
    """

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        from tasks.core.base.errors import BadUsage, describe, explain

        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter, BrokenPipeError):
            raise
        except Exception as error:
            if os.environ.get("NIGHTSHIFT_DEBUG"):
                raise
            if (words := explain(error)) is not None:
                fail(words, 2 if isinstance(error, BadUsage) else 1)
            fail(f"{describe(error)}\nThis should not happen. To see where: nightshift --debug …")

    return wrapped


def fail(message: str, status: int = 1) -> NoReturn:
    """Print what went wrong, and exit with `status`."""
    typer.secho(f"error: {visible(message)}", fg="red", err=True)
    raise typer.Exit(status)


def echo(message: str) -> None:
    """Print a line on standard output; what a terminal would obey in it is shown instead."""
    typer.echo(visible(message))


def check_arguments(arguments: Sequence[str]) -> None:
    """Exit 2 when an argument is not UTF-8."""
    for argument in arguments:
        try:
            check_text(argument)
        except ValueError:
            typer.secho(
                f"error: the argument {visible(argument)} is not UTF-8. Type it in a UTF-8 terminal; a file that has "
                "such a name needs another.",
                fg="red",
                err=True,
            )
            raise SystemExit(2) from None


def load(file: Path | None) -> Settings:
    """The settings, with the core's log lines on standard error from here on.

    Raises BadUsage when home is a file, and what `load_settings` raises.
    """
    from flows.terminal_log import show_progress
    from tasks.core.base.errors import BadUsage
    from tasks.core.base.settings_file import load_settings

    show_progress()
    settings = load_settings(file)
    if settings.home.exists() and not settings.home.is_dir():
        raise BadUsage(f"home {settings.home}: a file, where a folder is needed. Set home or NIGHTSHIFT_HOME.")
    if settings.as_written(""):  # not where the working directory would suggest
        logging.getLogger("nightshift.settings").info("home %s", settings.home)
    return settings


def print_json(value: object) -> None:
    """One indented document on standard output."""
    typer.echo(escape_controls(json.dumps(value, indent=2, ensure_ascii=False)))
