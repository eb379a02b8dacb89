"""Terminal output that shows control characters of the data instead of sending them."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook, RenderResult
from rich.segment import Segment

from tasks.core.base.plain_text import visible

_BEYOND_ASCII = re.compile("[\x7f-\x9f]")


def open_console(**options: Any) -> Console:
    """Return a console that shows control characters instead of sending them."""
    console = Console(**options)
    console.push_render_hook(_ShowControls())
    return console


def escape_controls(document: str) -> str:
    """Escape the control characters that JSON does not escape: U+007F to U+009F."""
    return _BEYOND_ASCII.sub(lambda match: f"\\u{ord(match.group()):04x}", document)


def show_controls_in_log_lines() -> None:
    """Replace control characters in all log lines of Nightshift: on the terminal, in Prefect, and in worker logs."""
    make_record = logging.getLogRecordFactory()
    if getattr(make_record, "shows_controls", False):
        return

    def make_visible(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make_record(*args, **kwargs)
        if record.name.partition(".")[0] == "nightshift":
            record.msg, record.args = visible(record.getMessage()), ()
        return record

    make_visible.shows_controls = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_visible)


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(renderable) for renderable in renderables]


class _Visible:
    """Wrap a renderable and make its text `visible`. The console's styles and line ends are kept."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for segment in segments:
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
