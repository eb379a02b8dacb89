from __future__ import annotations

import sys

import numpy as np
import pytest

from tasks.core.base.memory import Peak

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux can begin anew")


def hold(mebibytes: int) -> None:
    np.ones(mebibytes * 2**17).sum()  # given back at once


def test_peak_memory_of_a_step_excludes_memory_freed_before_it() -> None:
    with Peak() as first:
        hold(256)
    with Peak() as second:
        hold(8)
    assert 200 < first.mb - second.mb < 400


def test_peak_memory_of_a_step_includes_nested_steps() -> None:
    with Peak() as nothing:
        pass
    with Peak() as outer:
        hold(256)
        with Peak() as inner:
            hold(8)
    assert outer.mb - nothing.mb > 200 > inner.mb - nothing.mb
    with Peak() as outer, Peak() as inner:
        hold(256)
    assert outer.mb == inner.mb
