from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "release"))  # for release_world, the small world of both folders


@pytest.fixture
def home(tmp_path):
    return tmp_path / "var"
