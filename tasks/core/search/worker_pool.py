"""Searches in threads, so many at once; what comes when all are taken is told to come again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from tasks.core.base.errors import NightshiftError

T = TypeVar("T")

WAITING = 4  # for each thread, so many may wait


class Full(NightshiftError):
    """Every place is taken; trying again in a moment may help."""


class TooSlow(NightshiftError):
    """No answer in the time that was given."""


class WorkerPool:
    """Threads, and a bounded number of places before them. Used from one event loop."""

    def __init__(self, name: str, threads: int) -> None:
        self._name, self._places, self._taken = name, threads * (1 + WAITING), 0
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"nightshift-{name}")

    async def run(self, work: Callable[[], T], seconds: float) -> T:
        """What `work` returns, or raises.

        A place is taken until `work` has ended, whether or not somebody still waits for it: threads cannot be stopped.

        Raises:
            Full: no place is free.
            TooSlow: it took longer than `seconds`, waiting included.
        """
        if self._taken >= self._places:
            raise Full(f"{self._name}: {self._taken} searches are under way or wait; try again in a moment")
        self._taken += 1
        future = self._pool.submit(work)
        loop = asyncio.get_running_loop()
        future.add_done_callback(lambda _: _tell(loop, self._leave))
        return await _within(future, seconds)

    def close(self) -> None:
        """End the threads, after what they do and what waits for them."""
        self._pool.shutdown(wait=True)

    def _leave(self) -> None:
        self._taken -= 1


async def _within(future: Future[T], seconds: float) -> T:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), seconds)
    except TimeoutError:
        raise TooSlow(f"no answer within {seconds:g} s ([service] seconds); ask for less, or try again") from None


def _tell(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
