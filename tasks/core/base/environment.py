"""Sets what dependencies read at import: no telemetry, threads that sleep. Variables that the user has set are kept.

Import this module before the dependencies.
"""

from __future__ import annotations

import os

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "true",
    # Waiting threads sleep instead of spinning. With spinning, other busy processes (Prefect's server, a search) make
    # training several times slower.
    "OMP_WAIT_POLICY": "PASSIVE",
}
for name, value in DEFAULTS.items():
    os.environ.setdefault(name, value)
