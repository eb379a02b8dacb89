"""The time that work takes, and a new process to do it in."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T")


class Cost(NamedTuple):
    """Wall time, and processor time of this process and its finished children, in seconds."""

    wall: float
    cpu: float


def cost_of(work: Callable[[], T]) -> tuple[Cost, T]:
    """Do the work; return its cost and its result."""
    begin, used = time.perf_counter(), time.process_time() + cpu_of_children()
    result = work()
    return Cost(time.perf_counter() - begin, time.process_time() + cpu_of_children() - used), result


def cpu_of_children() -> float:
    """Return the CPU-seconds of all finished descendants of this process."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_in_process(work: Callable[..., T], *arguments: Any) -> T:
    """Run work in a new process, so that its memory and its open collections end with it."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()
