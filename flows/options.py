"""What all commands have in common: their options, readable errors, JSON."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn, ParamSpec, TypeVar

import typer

if TYPE_CHECKING:
    from tasks.core.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

SettingsFile = Annotated[
    Path | None, typer.Option("--settings", help="TOML settings; without it the defaults: the demo corpus.")
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document on standard output, nothing else there.")]


def readable_errors(command: Callable[P, T]) -> Callable[P, T]:
    """Show an error as its message, and exit 1; with --debug (or NIGHTSHIFT_DEBUG=1) the traceback instead."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:

        from tasks.core.errors import NightshiftError

        try:
            return command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except Exception as error:
            if os.environ.get("NIGHTSHIFT_DEBUG"):
                raise
            if isinstance(error, NightshiftError):
                fail(str(error))
            fail(f"{type(error).__name__}: {error}\nThis should not happen. To see where: nightshift --debug …")

    return wrapped


def fail(message: str) -> NoReturn:
    """Say what went wrong, and exit 1."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(1)


def load(file: Path | None) -> Settings:
    """The settings, with the core's log lines on standard error from here on.

    Raises NightshiftError when home is a file, and what `load_settings` raises.
    """
    from flows.terminal_log import show_progress
    from tasks.core.errors import NightshiftError
    from tasks.core.settings import load_settings

    show_progress()
    settings = load_settings(file)
    if settings.home.exists() and not settings.home.is_dir():
        raise NightshiftError(f"home {settings.home}: a file, where a folder is needed. Set home or NIGHTSHIFT_HOME.")
    return settings


def print_json(value: object) -> None:
    """One indented document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
