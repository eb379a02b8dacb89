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
    """Show an expected error as its message, and exit 1; NIGHTSHIFT_DEBUG=1 shows the traceback too."""

    @wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> T:
        from tasks.core.errors import NightshiftError

        try:
            return command(*args, **kwargs)
        except NightshiftError as error:
            if os.environ.get("NIGHTSHIFT_DEBUG"):
                raise
            fail(str(error))

    return wrapped


def fail(message: str) -> NoReturn:
    """Say what went wrong, and exit 1."""
    typer.secho(f"error: {message}", fg="red", err=True)
    raise typer.Exit(1)


def load(file: Path | None) -> Settings:
    """The settings, with the core's log lines on standard error from here on."""
    from flows.terminal import show_progress
    from tasks.core.settings import load_settings

    show_progress()
    return load_settings(file)


def print_json(value: object) -> None:
    """One indented document on standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))
