"""What must be in the environment before Prefect and other dependencies are imported: no telemetry, our logs.

Imported first by everything that imports Prefect. Whatever the user has set stays as it is.
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
    "PREFECT_LOGGING_EXTRA_LOGGERS": "nightshift",  # the core's log lines belong to the run that caused them
    "TOKENIZERS_PARALLELISM": "true",
    "PYTHONSAFEPATH": "1",  # children never import a tasks.py or flows/ of the folder that a user works in
    # Threads that wait for each other sleep instead of spinning: with spinning, one other busy process on the machine
    # (Prefect's server, a search) makes training two to four times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
show_controls_in_log_lines()
logging.getLogger("nightshift").setLevel(logging.INFO)  # Prefect attaches its handler, not a level
