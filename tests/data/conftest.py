from pathlib import Path

import pytest
from small_collection import Collection, build


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    return build(tmp_path)
