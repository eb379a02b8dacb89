"""Peak memory of this process while a step runs."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from types import TracebackType

_PROC = Path("/proc/self")
_running: list[Peak] = []  # a step may hold others: what those need counts for it as well


class Peak:
    """Measures while its `with` lasts; then `mb` is the largest resident memory of that time, MiB.

    Processes that this one started are not counted. Where the system cannot begin anew (anything but Linux), it is the
    peak of the process's whole life.
    """

    def __enter__(self) -> Peak:
        self.mb = 0
        for outer in _running:
            outer.mb = max(outer.mb, _largest())
        _forget()
        _running.append(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _running.remove(self)
        self.mb = max(self.mb, _largest())
        for outer in _running:
            outer.mb = max(outer.mb, self.mb)


def _forget() -> None:
    try:
        (_PROC / "clear_refs").write_text("5")
    except OSError:
        return


def _largest() -> int:
    try:
        status = (_PROC / "status").read_text()
    except OSError:
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest // (2**20 if sys.platform == "darwin" else 2**10)
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) // 2**10
