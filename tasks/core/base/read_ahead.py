"""Overlap a loop with two threads: one prepares the next item, the other writes the previous result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """Yield the items in order. A thread prepares the next item while the caller processes the current one."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: Future[Any] = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item


class BackgroundWriter:
    """Runs one call at a time in a thread. An error is raised by the next call or on exit."""

    def __enter__(self) -> BackgroundWriter:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._last: Future[None] | None = None
        return self

    def do(self, work: Callable[..., None], *arguments: object) -> None:
        """Wait for the previous call, then start `work(*arguments)`."""
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(work, *arguments)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if error is None and self._last is not None:
            self._last.result()
