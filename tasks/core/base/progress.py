"""Reports progress of long work to a listener such as a progress bar, and formats durations for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Listener = Callable[[str, int, int], None]  # stage, units done, units in total

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def listening(listener: Listener) -> Iterator[None]:
    """Send progress reports of this thread to `listener` until the block ends."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def report_progress(stage: str, done: int, total: int) -> None:
    """Report that `done` of `total` units of `stage` are finished. Ignored without a listener."""
    if (listener := _listener.get()) is not None:
        listener(stage, done, total)


def format_duration(seconds: float) -> str:
    """Format a duration as seconds, minutes, or hours."""
    if seconds < 90:
        return f"{max(1, seconds):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
