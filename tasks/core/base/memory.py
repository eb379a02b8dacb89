"""Measures the peak memory of this process during a step."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc/self")
_running: list[Peak] = []  # steps may be nested: an inner peak also counts for the outer step


class Peak:
    """Context manager that measures the largest resident memory, in MiB, and stores it in `mb` on exit.

    Child processes are not counted. Only Linux can reset the peak; elsewhere `mb` is the peak since process start.
    """

    def __enter__(self) -> Peak:
        self.mb = 0
        for outer in _running:
            outer.mb = max(outer.mb, _peak_mb())
        _reset_peak()
        _running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.remove(self)
        self.mb = max(self.mb, _peak_mb())
        for outer in _running:
            outer.mb = max(outer.mb, self.mb)


def _reset_peak() -> None:
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return


def _peak_mb() -> int:
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest // (2**20 if sys.platform == "darwin" else 2**10)
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 2**10
