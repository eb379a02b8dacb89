from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).parents[1] / "release")
)  # for release_world, the test data that both folders share

from release_fixtures import settings  # noqa: F401
