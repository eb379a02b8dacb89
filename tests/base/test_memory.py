from __future__ import annotations

import sys

import numpy as np
import pytest

from tasks.core.base.memory import Peak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak")


def allocate(mebibytes: int) -> None:
    np.ones(mebibytes * 2**17).sum()  # released immediately


def test_peak_memory_of_a_step_excludes_memory_freed_before_it() -> None:
    with Peak() as first:
        allocate(256)
    with Peak() as second:
        allocate(8)
    assert 200 < first.mb - second.mb < 400


def test_peak_memory_of_a_step_includes_nested_steps() -> None:
    with Peak() as empty:
        pass
    with Peak() as outer:
        allocate(256)
        with Peak() as inner:
            allocate(8)
    assert outer.mb - empty.mb > 200 > inner.mb - empty.mb
    with Peak() as outer, Peak() as inner:
        allocate(256)
    assert outer.mb == inner.mb
