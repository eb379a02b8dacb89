"""Run Prefect's worker so that it and its nights survive a log that cannot be written, because its disk is full.

Prefect 3.8 sets a night to Crashed if the worker cannot copy its output to the log, even if the night has already ended
and reported its result. Here, that output is lost instead.
"""

from __future__ import annotations

import flows.environment  # noqa: F401  (before Prefect: it sets what Prefect reads at import)
from flows.server_log import outlive_full_disk


def main() -> None:
    """Run the `prefect` command with the arguments of this process, such as `worker start`."""
    outlive_full_disk()
    from prefect.cli import app

    app()


if __name__ == "__main__":
    main()
