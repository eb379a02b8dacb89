"""Turns off the telemetry of dependencies. Import this module before them. Variables that are set are kept."""

from __future__ import annotations

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "true",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
