"""The gate's error rates, on few trials here; tests/benchmarks/gate.py makes the whole table."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tasks.core.base.sections.evaluation import GateSettings

TRIALS = 200


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    path = Path(__file__).parents[1] / "benchmarks" / "gate.py"
    spec = importlib.util.spec_from_file_location("gate_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


RULES = GateSettings(resamples=500)


def test_systems_of_equal_quality_are_called_better_at_most_at_the_stated_rate(bench: ModuleType) -> None:
    """At a true rate of 5 %, 200 trials show more than 17 of them once in a hundred times."""
    _, better = bench.rates(list(bench.verdicts(300, 0.0, TRIALS, RULES)))
    assert better <= 17 / TRIALS


def test_a_regression_of_two_points_on_300_queries_is_rejected(bench: ModuleType) -> None:
    promoted, _ = bench.rates(list(bench.verdicts(300, bench.shift_of(-0.02), TRIALS, RULES)))
    assert promoted <= 0.05


def test_the_simulated_effect_has_the_requested_size(bench: ModuleType) -> None:
    ours, theirs = bench.pairs(bench.CALIBRATION, bench.shift_of(-0.02), bench.np.random.default_rng(0))
    assert (ours - theirs).mean() == pytest.approx(-0.02, abs=0.001)
