"""Run Prefect's worker so that it and its nights survive a log that cannot be written, because its disk is full.

Prefect 3.8 sets a night to Crashed if the worker cannot copy its output to the log, even if the night has already ended
and reported its result. Here, that output is lost instead.
"""

from __future__ import annotations

import io
import sys
from contextlib import suppress

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)


class LossyLog(io.TextIOWrapper):
    """A log file that loses text while it cannot be written."""

    def write(self, text: str) -> int:
        """Write the text, or lose it; return its length."""
        with suppress(OSError):
            super().write(text)
        return len(text)

    def flush(self) -> None:
        """Write what is buffered, or try again next time."""
        with suppress(OSError):
            super().flush()


def main() -> None:
    """Run the `prefect` command with the arguments of this process, such as `worker start`."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        setattr(sys, name, LossyLog(stream.buffer, encoding="utf-8", errors="replace", line_buffering=True))
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
