"""The log of a command on standard error: headings, progress, warnings."""

from __future__ import annotations

import logging
import os
from datetime import datetime

from rich.text import Text

from flows.console import open_console
from tasks.core.base.errors import NightshiftError

log = logging.getLogger("nightshift.night")

HEADINGS = {"nightshift.stage", "nightshift.night"}  # loggers whose lines stand at the margin


class Lines(logging.Handler):
    """Prints what the core logs, one line each: the time, then the message, indented below its heading."""

    def __init__(self) -> None:
        super().__init__()
        self.console = open_console(stderr=True, highlight=False, soft_wrap=True)

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        when = datetime.fromtimestamp(record.created).strftime("%H:%M:%S")
        style = "yellow" if record.levelno >= logging.WARNING else ""
        indent = "  "
        if record.name in HEADINGS:
            indent, style = "", style or "bold"
        self.console.print(Text(f"{when}  {indent}", style="dim") + Text(record.getMessage(), style=style))


def show_progress() -> None:
    """Print the core's log lines on standard error; the detailed ones only with `--debug` (NIGHTSHIFT_DEBUG=1)."""
    logger = logging.getLogger("nightshift")
    logger.setLevel(logging.DEBUG if os.environ.get("NIGHTSHIFT_DEBUG") else logging.INFO)
    if not any(isinstance(handler, Lines) for handler in logger.handlers):
        logger.addHandler(Lines())


def announce(line: str) -> None:
    """Print what a command begins to do, before it imports what takes seconds."""
    show_progress()
    log.info("%s", line)


def only_warnings_of_prefect() -> None:
    """Print Prefect's own warnings and errors, except those that the command reports itself when it ends.

    Prefect's log of the run, in its database and its UI, keeps everything.
    """
    import prefect.main  # noqa: F401  (sets the handlers up)

    def worth_showing(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], NightshiftError):
            return False
        if record.getMessage().startswith("Finished in state") or "Crash detected!" in record.getMessage():
            return False
        return record.levelno >= logging.WARNING and not record.name.startswith("nightshift")

    for handler in logging.getLogger().handlers:
        handler.addFilter(worth_showing)
