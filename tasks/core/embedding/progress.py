"""Report embedding progress: passages and tokens per second, and the remaining time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from tasks.core.base.progress import format_duration, report_progress

log = logging.getLogger("nightshift.embedding")

SECONDS = 4.0  # between two progress reports


@dataclass(frozen=True)
class Pace:
    """Progress of a shard."""

    rank: int
    world_size: int
    done: int  # passages encoded, including earlier runs
    total: int  # passages to encode
    passages_per_second: float  # in this run
    tokens_per_second: float  # in this run
    seconds_left: float

    @property
    def share(self) -> float:
        """Completed share of all shards, 0 to 1, if shards run one after the other."""
        return (self.rank + self.done / max(1, self.total)) / self.world_size

    def __str__(self) -> str:
        return (
            f"shard {self.rank + 1} of {self.world_size}: {self.done:,} of {self.total:,} passages encoded, "
            f"{self.passages_per_second:,.0f} passages/s, {self.tokens_per_second:,.0f} tokens/s, "
            f"{format_duration(self.seconds_left)} left"
        )


Watch = Callable[[Pace], None]


class SpeedMeter:
    """Counts encoded passages and reports the pace to the log and to `watch`, every few seconds and at the end."""

    def __init__(self, rank: int, world_size: int, done: int, total: int, watch: Watch | None) -> None:
        self._rank, self._world_size, self._total, self._watch = rank, world_size, total, watch
        self._done_before = self._done = done
        self._tokens = 0
        self._started = self._reported = time.monotonic()

    def add(self, passages: int, tokens: int) -> None:
        """Count an encoded window and report the pace if a report is due."""
        self._done += passages
        self._tokens += tokens
        report_progress(f"embed shard {self._rank + 1} of {self._world_size}", self._done, self._total)
        now = time.monotonic()
        if now - self._reported < SECONDS and self._done < self._total:
            return
        self._reported = now
        seconds = max(now - self._started, 1e-9)
        speed = (self._done - self._done_before) / seconds
        seconds_left = (self._total - self._done) / max(speed, 1e-9)
        pace = Pace(self._rank, self._world_size, self._done, self._total, speed, self._tokens / seconds, seconds_left)
        is_last = self._done == self._total
        log.log(logging.DEBUG if is_last else logging.INFO, "%s", pace)  # the shard itself logs its end
        if self._watch is not None:
            self._watch(pace)
