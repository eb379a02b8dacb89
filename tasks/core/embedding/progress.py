"""How an embedding gets on: passages and tokens a second, and the time that is left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.core.base.progress import report_progress

log = logging.getLogger("nightshift.embedding")

SECONDS = 4.0  # between two reports


@dataclass(frozen=True)
class Pace:
    """Where a shard stands."""

    rank: int
    world_size: int
    done: int  # passages encoded, those of earlier tries included
    of: int  # passages that have to be encoded
    passages: float  # a second, in this try
    tokens: float  # a second, in this try
    left: float  # seconds

    @property
    def share(self) -> float:
        """Of all shards, what is done when they are made one after the other: 0 to 1."""
        return (self.rank + self.done / max(1, self.of)) / self.world_size

    def __str__(self) -> str:
        return (
            f"shard {self.rank + 1} of {self.world_size}: {self.done:,} of {self.of:,} passages encoded, "
            f"{self.passages:,.0f} passages/s, {self.tokens:,.0f} tokens/s, {_minutes(self.left)} left"
        )


Watch = Callable[[Pace], None]


class SpeedMeter:
    """Counts what is encoded and tells the log, and `watch` if there is one, every few seconds and at the end."""

    def __init__(self, rank: int, world_size: int, done: int, of: int, watch: Watch | None) -> None:
        self._rank, self._world_size, self._of, self._watch = rank, world_size, of, watch
        self._before = self._done = done
        self._tokens = 0
        self._began = self._told = time.monotonic()

    def add(self, passages: int, tokens: int) -> None:
        """Count a window."""
        self._done += passages
        self._tokens += tokens
        report_progress(f"embed shard {self._rank + 1} of {self._world_size}", self._done, self._of)
        now = time.monotonic()
        if now - self._told < SECONDS and self._done < self._of:
            return
        self._told = now
        seconds = max(now - self._began, 1e-9)
        speed = (self._done - self._before) / seconds
        left = (self._of - self._done) / max(speed, 1e-9)
        pace = Pace(self._rank, self._world_size, self._done, self._of, speed, self._tokens / seconds, left)
        log.log(logging.DEBUG if self._done == self._of else logging.INFO, "%s", pace)  # the shard logs its end
        if self._watch is not None:
            self._watch(pace)


def _minutes(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
