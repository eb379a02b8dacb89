"""Duration of each stage of a search: waiting, embedding, searching, and fetching texts."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum

from tasks.core.base.ranking import Mode
from tasks.core.base.tracing import span


class Stage(StrEnum):
    """Stages of a search."""

    WAIT = "wait"  # in the queue of the service
    EMBED = "embed"  # queries to vectors
    SEARCH = "search"  # vectors and terms to ranked passages; Milvus returns texts of dense hits in the same call
    FETCH = "fetch"  # texts of ranked passages: of lexical and hybrid hits, and long texts from the snapshot


@dataclass
class Durations:
    """Seconds per stage of one request, and the mode that answered."""

    mode: Mode | None = None
    seconds: dict[Stage, float] = field(default_factory=lambda: defaultdict(float))


_current: ContextVar[Durations | None] = ContextVar("durations", default=None)


@contextmanager
def record_durations() -> Iterator[Durations]:
    """Record the stages of the searches that run in this context."""
    durations = Durations()
    before = _current.set(durations)
    try:
        yield durations
    finally:
        _current.reset(before)


def note_mode(mode: Mode) -> None:
    """Record the mode of the search in this context, if it is being recorded."""
    if (durations := _current.get()) is not None:
        durations.mode = mode


@contextmanager
def timed(stage: Stage) -> Iterator[None]:
    """Add the duration of this context to a stage, if it is being recorded, and trace it."""
    durations = _current.get()
    if durations is None:
        yield
        return
    with span(f"nightshift.search.{stage}"):
        began = time.perf_counter()
        try:
            yield
        finally:
            durations.seconds[stage] += time.perf_counter() - began
