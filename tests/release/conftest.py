from __future__ import annotations

from release_fixtures import settings  # noqa: F401
