"""Bounded worker pool for searches; rejects requests when all workers are busy and the queue is full."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tasks.core.base.errors import NightshiftError

T = TypeVar("T")

WAITING = 4  # queued searches per thread


class Full(NightshiftError):
    """The queue is full; try again in a moment."""


class TooSlow(NightshiftError):
    """There was no answer within the time limit."""


class WorkerPool:
    """Worker threads with a bounded queue. Use it from one event loop."""

    def __init__(self, name: str, threads: int) -> None:
        self.name, self._places, self._taken = name, threads * (1 + WAITING), 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nightshift-{name}")

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """Run `work` in a worker thread; return its result.

        After a timeout, `work` still occupies its place until it ends, because threads cannot be stopped.

        Raises:
            Full: the queue is full.
            TooSlow: it took longer than `seconds`, including time in the queue.
        """
        if self._taken >= self._places:
            raise Full(f"{self.name}: {self._taken} searches are running or queued; try again in a moment")
        self._taken += 1
        future = self._pool.submit(contextvars.copy_context().run, work)  # traces keep their parent
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _call_in_loop(loop, self._leave))
        return await _within(future, seconds)

    @property
    def taken(self) -> int:
        """Running and queued searches."""
        return self._taken

    def close(self) -> None:
        """Stop the threads after all running and queued searches have ended."""
        self._pool.shutdown(wait=True)

    def _leave(self) -> None:
        self._taken -= 1


async def _within(future: Future[T], seconds: float) -> T:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except TimeoutError:
        raise TooSlow(
            f"no answer within {seconds:g} s ([service] seconds); send fewer queries or a smaller k, or try again"
        ) from None


def _call_in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
