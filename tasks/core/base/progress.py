"""Reports progress of long work to a listener such as a progress bar. Without a listener, reports are ignored."""

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
    """Report that `done` of `total` units of `stage` are finished."""
    if (listener := _listener.get()) is not None:
        listener(stage, done, total)
