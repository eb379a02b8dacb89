from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.evaluation.gate import compare, decide
from tasks.core.settings import GateSettings

RULES = GateSettings(resamples=1000)


def table(values: np.ndarray) -> pa.Table:
    return pa.table({"query_id": [f"q{n:04d}" for n in range(len(values))], "ndcg@10": values})


def noisy(mean: float, seed: int, count: int = 300) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, count), 0, 1)


def test_an_equal_challenger_is_promoted() -> None:
    same = table(noisy(0.7, 0))
    verdict = decide(same, table(noisy(0.5, 1)), same, RULES)
    assert verdict.promote
    assert verdict.comparisons[0].difference == 0


def test_a_worse_challenger_is_rejected_with_the_reason() -> None:
    verdict = decide(table(noisy(0.65, 0)), table(noisy(0.5, 1)), table(noisy(0.7, 2)), RULES)
    assert not verdict.promote
    assert "serving release" in verdict.reasons[0]


def test_a_challenger_clearly_worse_than_bm25_is_rejected_unless_the_floor_is_off() -> None:
    challenger, bm25 = table(noisy(0.4, 0)), table(noisy(0.6, 1))
    assert not decide(challenger, bm25, None, RULES).promote
    assert decide(challenger, bm25, None, RULES.model_copy(update={"bm25_floor": False})).promote


def test_too_few_queries_decide_nothing() -> None:
    few = table(noisy(0.9, 0, count=5))
    assert "only 5 held-out queries" in decide(few, few, None, RULES).reasons[0]


def test_different_queries_are_never_compared() -> None:
    with pytest.raises(ValueError, match="same queries"):
        compare("other", table(noisy(0.5, 0)), table(noisy(0.5, 0))[1:], RULES)


def test_the_interval_holds_the_mean_and_is_the_same_for_the_same_seed() -> None:
    one = compare("other", table(noisy(0.6, 0)), table(noisy(0.5, 1)), RULES)
    assert one.low < one.difference < one.high
    assert one == compare("other", table(noisy(0.6, 0)), table(noisy(0.5, 1)), RULES)
