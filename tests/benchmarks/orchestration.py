"""Overhead of Prefect: the share of a night that is spent outside the work of its steps.

    python tests/benchmarks/orchestration.py [--settings night.toml]

The benchmark runs a complete night, and then a night with nothing to do, against the Prefect server of
PREFECT_API_URL (without it, a temporary server). Overhead is the time between start and end of the flow that is not
inside the body of a task, plus the creation of artifacts inside tasks. This is an upper bound, because it includes the
flow's own lines.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flows.environment  # noqa: F401

from prefect import Task  # isort: skip

from flows import nightly
from tasks import embedding, evaluation, ingest, mining, release, report, training
from tasks.core.report.night import Night


class Clock:
    """Measure seconds inside wrapped functions; nested calls count once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._inside = False

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._inside:
                return function(*args, **kwargs)
            self._inside, begin = True, time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - begin
                self.calls += 1

        timed.__wrapped__ = function  # type: ignore[attr-defined]  # Prefect binds arguments by the signature
        return timed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--settings", type=Path, help="settings file; default: the demo collection")
    settings = arguments.parse_args().settings
    work, artifacts = Clock(), Clock()
    for module in (embedding, evaluation, ingest, mining, release, report, training):
        for value in vars(module).values():
            if isinstance(value, Task) and not hasattr(value.fn, "__wrapped__"):
                value.fn = work.wrap(value.fn)
    for name in [name for name in vars(report) if name.endswith("_artifact")]:
        setattr(report, name, artifacts.wrap(getattr(report, name)))
    for label in ("complete night", "night with nothing to do"):
        work.seconds = artifacts.seconds = 0.0
        work.calls = 0
        begin = time.perf_counter()
        state = nightly.nightly(settings, "benchmark", return_state=True)
        whole = time.perf_counter() - begin
        outcome = state.result()
        assert isinstance(outcome, Night)
        overhead = whole - work.seconds + artifacts.seconds
        print(
            f"{label}: {outcome.outcome}, {whole:.1f} s, {work.calls} tasks; overhead {overhead:.2f} s "
            f"= {overhead / whole:.1%} (artifacts: {artifacts.seconds:.2f} s)"
        )


if __name__ == "__main__":
    main()
