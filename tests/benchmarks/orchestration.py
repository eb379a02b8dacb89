"""What Prefect costs a night: the share of its time that is spent outside the steps' own work.

    python tests/benchmarks/orchestration.py [--settings night.toml]

runs one night against the Prefect server of PREFECT_API_URL (a temporary one without), and then a second one with
nothing to do. Counted as Prefect's is everything between the flow's start and end that is not inside the body of a
task, and of what is inside one the making of artifacts: an upper bound, since the flow's own few lines are in it.
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

MAKERS = (
    "create_markdown_artifact",
    "create_progress_artifact",
    "create_table_artifact",
    "update_progress_artifact",
)


class Clock:
    """Seconds inside whatever it wraps; what runs inside another wrapped call is counted once."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0
        self._inside = False

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            if self._inside:
                return function(*given, **named)
            self._inside, begin = True, time.perf_counter()
            try:
                return function(*given, **named)
            finally:
                self._inside = False
                self.seconds += time.perf_counter() - begin
                self.calls += 1

        timed.__wrapped__ = function  # type: ignore[attr-defined]  # Prefect binds arguments by the signature
        return timed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--settings", type=Path, help="TOML settings; the demo corpus without")
    settings = arguments.parse_args().settings
    work, artifacts = Clock(), Clock()
    for module in (embedding, evaluation, ingest, mining, release, report, training):
        for one in vars(module).values():
            if isinstance(one, Task) and not hasattr(one.fn, "__wrapped__"):
                one.fn = work.around(one.fn)
    for name in MAKERS:
        setattr(report, name, artifacts.around(getattr(report, name)))
    for label in ("a whole night", "a night with nothing to do"):
        work.seconds = artifacts.seconds = 0.0
        work.calls = 0
        begin = time.perf_counter()
        state = nightly.nightly(settings, "benchmark", return_state=True)
        whole = time.perf_counter() - begin
        outcome = state.result()
        assert isinstance(outcome, Night)
        own = whole - work.seconds + artifacts.seconds
        print(
            f"{label}: {outcome.outcome}, {whole:.1f} s, {work.calls} tasks; outside the steps' work {own:.2f} s "
            f"= {own / whole:.1%} (of it artifacts {artifacts.seconds:.2f} s)"
        )


if __name__ == "__main__":
    main()
