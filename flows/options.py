"""Shared parts of all commands: options, readable errors, JSON output."""

from __future__ import annotations

import inspect
import json
import logging
import os
import re
from collections.abc import Callable, Sequence
from enum import StrEnum
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


class Panel(StrEnum):
    """A group of commands in `nightshift --help`."""

    START = "First night"
    DATA = "Releases and data"
    NIGHTS = "Every night"
    QUERY = "Search"


DEFAULT = "Default: the file in NIGHTSHIFT_SETTINGS, else the demo corpus."
SettingsFile = Annotated[Path | None, typer.Option("--settings", help=f"TOML settings file. {DEFAULT}")]
SettingsFiles = Annotated[
    list[Path] | None,
    typer.Option("--settings", help=f"TOML settings file; repeat it for collections side by side. {DEFAULT}"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to stdout.")]


def readable_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Wrap a command: print errors as messages, or as tracebacks with --debug (NIGHTSHIFT_DEBUG=1).

    Exits 2 for invalid settings, options, and queries, and 1 for every other error.
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
            if (message := explain(error)) is not None:
                fail(message, 2 if isinstance(error, BadUsage) else 1)
            fail(f"{describe(error)}\nThis should not happen. For the traceback: nightshift --debug …")

    # Typer keeps the line breaks inside of all paragraphs but the first.
    wrapped.__doc__ = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(command) or "")
    return wrapped


def fail(message: str, status: int = 1) -> NoReturn:
    """Print an error and exit with `status`."""
    typer.secho(f"error: {visible(message)}", fg="red", err=True)
    raise typer.Exit(status)


def echo(message: str) -> None:
    """Print a line to stdout, with control characters made visible."""
    typer.echo(visible(message))


def check_arguments(arguments: Sequence[str]) -> None:
    """Exit 2 when an argument is not UTF-8."""
    for argument in arguments:
        try:
            check_text(argument)
        except ValueError:
            typer.secho(
                f"error: the argument {visible(argument)} is not UTF-8. Use a UTF-8 terminal, and rename "
                "files whose names are not UTF-8.",
                fg="red",
                err=True,
            )
            raise SystemExit(2) from None


def load(file: Path | None) -> Settings:
    """Load the settings, and log to stderr from here on.

    Raises BadUsage when home is a file or `load_settings` refuses the settings.
    """
    from flows.terminal_log import show_progress
    from tasks.core.base.errors import BadUsage
    from tasks.core.base.settings_file import load_settings

    show_progress()
    settings = load_settings(file)
    if settings.home.exists() and not settings.home.is_dir():
        raise BadUsage(f"home {settings.home}: a file, but a folder is needed. Set home or NIGHTSHIFT_HOME.")
    if settings.as_written(""):  # home is not the folder that the working directory suggests
        logging.getLogger("nightshift.settings").info("home %s", settings.home)
    return settings


def print_json(value: object) -> None:
    """Print an indented JSON document to stdout."""
    typer.echo(escape_controls(json.dumps(value, indent=2, ensure_ascii=False)))
