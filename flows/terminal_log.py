"""Log of a command on stderr: headings, progress, warnings."""

from __future__ import annotations

import logging
import os
from datetime import datetime

from rich.text import Text

from flows.console import open_console
from tasks.core.base.errors import NightshiftError

log = logging.getLogger("nightshift.night")

HEADINGS = {"nightshift.stage", "nightshift.night"}  # loggers whose lines are not indented


class TerminalHandler(logging.Handler):
    """Prints each log record on one line: the time, then the message, indented below its heading."""

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
    """Print the core's log lines to stderr; debug lines only with `--debug` (NIGHTSHIFT_DEBUG=1)."""
    logger = logging.getLogger("nightshift")
    logger.setLevel(logging.DEBUG if os.environ.get("NIGHTSHIFT_DEBUG") else logging.INFO)
    if not any(isinstance(handler, TerminalHandler) for handler in logger.handlers):
        logger.addHandler(TerminalHandler())


def announce(line: str) -> None:
    """Print what a command is about to do, before slow imports."""
    show_progress()
    log.info("%s", line)


def only_warnings_of_prefect() -> None:
    """Hide Prefect's log lines below WARNING, and errors that the command itself reports at its end.

    Prefect's database and UI keep the full log.
    """
    import prefect.main  # noqa: F401  (sets the handlers up)

    def is_relevant(record: logging.LogRecord) -> bool:
        if record.exc_info and isinstance(record.exc_info[1], NightshiftError):
            return False
        if record.getMessage().startswith("Finished in state") or "Crash detected!" in record.getMessage():
            return False
        return record.levelno >= logging.WARNING and not record.name.startswith("nightshift")

    for handler in logging.getLogger().handlers:
        handler.addFilter(is_relevant)
