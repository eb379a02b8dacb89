"""Set environment variables that Prefect and other dependencies read at import: no telemetry, Nightshift's logs.

Every module that imports Prefect imports this module first. Variables that the user has set are not changed.
"""

from __future__ import annotations

import logging
import os

from flows.console import show_controls_in_log_lines

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nightshift",  # show the core's log lines with their flow run
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONSAFEPATH": "1",  # child processes must not import tasks.py or flows/ from the user's working directory
    # Waiting threads sleep instead of spinning. With spinning, one other busy process (Prefect's server, a search)
    # makes training two to four times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
show_controls_in_log_lines()
logging.getLogger("nightshift").setLevel(logging.INFO)  # Prefect adds a handler but sets no level
