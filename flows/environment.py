"""Set environment variables that Prefect reads at import: no telemetry, Nightshift's logs.

Every module that imports Prefect imports this module first. Variables that the user has set are not changed.
"""

from __future__ import annotations

import logging
import os

import tasks.core.base.environment  # noqa: F401  (what the core's dependencies read at import)
from flows.console import show_controls_in_log_lines

DEFAULTS = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nightshift",  # show the core's log lines with their flow run
    "PYTHONSAFEPATH": "1",  # child processes must not import tasks.py or flows/ from the user's working directory
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
show_controls_in_log_lines()
logging.getLogger("nightshift").setLevel(logging.INFO)  # Prefect adds a handler but sets no level
