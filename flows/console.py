"""How the command prints: data may hold anything, and no terminal obeys it."""

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
    """Return a console that shows control characters in what it prints instead of sending them."""
    console = Console(**options)
    console.push_render_hook(_ShowControls())
    return console


def escape_controls(document: str) -> str:
    """Escape the control characters that JSON leaves as they are: DEL and those after it."""
    return _BEYOND_ASCII.sub(lambda match: f"\\u{ord(match.group()):04x}", document)


def show_controls_in_log_lines() -> None:
    """Let no log line of Nightshift hold a control character, on the terminal, in Prefect, or in a worker's log."""
    make = logging.getLogRecordFactory()
    if getattr(make, "shows_controls", False):
        return

    def make_visible(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.name.partition(".")[0] == "nightshift":
            record.msg, record.args = visible(record.getMessage()), ()
        return record

    make_visible.shows_controls = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make_visible)


class _ShowControls(RenderHook):
    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Visible(renderable) for renderable in renderables]


class _Visible:
    """A renderable whose text is `visible`; the console's own styles and line ends stay."""

    def __init__(self, renderable: ConsoleRenderable) -> None:
        self._renderable = renderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        segments: Iterable[Segment] = console.render(self._renderable, options)
        for segment in segments:
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
