"""Two small threads around a loop: one makes the next item while this one is worked on, one finishes the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


def read_ahead(items: Iterable[T]) -> Iterator[T]:
    """The items in their order, each made in a thread while the one before it is worked on; one waits at most."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        waiting: Future[Any] = pool.submit(next, iterator, end)
        while (item := waiting.result()) is not end:
            waiting = pool.submit(next, iterator, end)
            yield item


class BackgroundWriter:
    """Runs one piece of work in a thread; the next waits until it is done. An error is raised there, or at the end."""

    def __enter__(self) -> BackgroundWriter:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="behind")
        self._last: Future[None] | None = None
        return self

    def do(self, work: Callable[..., None], *given: object) -> None:
        """Wait for the work before, then start this."""
        if self._last is not None:
            self._last.result()
        self._last = self._pool.submit(work, *given)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pool.shutdown()
        if error is None and self._last is not None:
            self._last.result()
