from __future__ import annotations

import re
from dataclasses import fields
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tasks.core.base.receipts import Encoder
from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.gate import Decision, Evidence, decide, judge_training
from tasks.core.evaluation.golden import Answers
from tasks.core.evaluation.significance import compare_paired

RULES = GateSettings(resamples=1000)
BM25 = 0.5


def table(values: np.ndarray) -> pa.Table:
    return pa.table({"query_id": [f"q{n:04d}" for n in range(len(values))], "ndcg@10": values})


def noisy(mean: float, seed: int, count: int = 300) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(mean, 0.1, count), 0, 1)


def judge(challenger: np.ndarray, serving: np.ndarray | None, *, bm25: float = BM25, **changes: Any) -> Decision:
    evidence_fields = {field.name for field in fields(Evidence)}
    settings = RULES.model_copy(update={name: changes.pop(name) for name in changes.keys() - evidence_fields})
    serving_table = None if serving is None else table(serving)
    floor = table(noisy(bm25, 99, len(challenger)))
    return decide(Evidence(challenger=table(challenger), bm25=floor, serving=serving_table, **changes), settings)


@pytest.mark.parametrize("margin", [0.0, 0.01])
def test_an_identical_challenger_is_promoted_even_without_a_margin(margin: float) -> None:
    same = noisy(0.7, 0)
    decision = judge(same, same, margin=margin)
    assert decision.promote
    assert decision.reasons[0].startswith("no worse than the serving release: nDCG@10 +0.0000")


def test_a_training_that_leaves_every_query_as_it_was_is_rejected_and_a_refresh_is_not() -> None:
    same, hybrid = noisy(0.7, 0), noisy(0.8, 1)
    for challenger, serving in ((same, None), (same, noisy(0.6, 3)), (same, same), (hybrid, None), (hybrid, same)):
        parts = {"base": table(same), "dense": table(same), "base_dense": table(same)}
        decision = judge(challenger, serving, **parts, trained=True)
        assert not decision.promote
        (reason,) = decision.reasons
        assert reason.startswith("training changed nothing: the base model answers all 300 held-out queries the same")
        assert judge(challenger, serving, **parts).promote  # the serving encoder over new passages


def test_with_a_perfect_base_model_only_an_equal_ranking_shows_that_nothing_was_learned() -> None:
    perfect = np.ones(300)
    parts = {"base": table(perfect), "dense": table(perfect), "base_dense": table(perfect)}
    assert judge(perfect, None, **parts, trained=True).promote
    assert not judge(perfect, None, **parts, trained=True, same_as_base=True).promote
    nearly = noisy(0.7, 0)
    other = nearly.copy()
    other[7] += 0.01
    parts = {"base": table(nearly), "dense": table(other), "base_dense": table(nearly)}
    assert judge(other, None, **parts, trained=True).promote


def test_a_training_that_fell_below_its_start_is_rejected_with_the_figures_of_both_steps() -> None:
    facts: dict[str, Any] = {
        "digest": "d", "path": "p", "rows": 1, "fingerprint": "f", "passage_fingerprint": "f", "dimension": 2,
        "base": "b", "steps": 9, "precision": "fp32", "fidelity": 1.0,
        "dev": ((0, 0.912), (3, 0.04), (6, 0.05), (9, 0.03)),
    }  # fmt: skip
    assert judge_training(Encoder(**facts)) is None
    finding = judge_training(Encoder(**facts, improved=False))
    assert finding is not None
    assert not finding.held
    assert finding.words == (
        "training did not improve on step 0 (dev nDCG@10 0.9120); best later step 0.0500 at step 6"
    )


def test_a_better_challenger_is_called_better() -> None:
    before = noisy(0.6, 0)
    assert judge(before + 0.05, before).reasons[0].startswith("better than the serving release")


def test_a_worse_challenger_is_rejected_with_only_that_reason() -> None:
    decision = judge(noisy(0.65, 0), noisy(0.7, 2))
    assert not decision.promote
    (reason,) = decision.reasons
    assert reason.startswith("not shown to be no worse than the serving release")
    assert any(check.held and "BM25" in check.words for check in decision.findings)  # passed checks are kept too


def test_every_reason_of_a_rejection_is_given() -> None:
    decision = judge(noisy(0.3, 0, 10), noisy(0.7, 2, 10), min_ndcg=0.4, withdrawn="r0007-a")
    assert [reason.split(":")[0] for reason in decision.reasons] == [
        "it is release r0007-a, which was rolled back manually (nightshift rollback --to serves it again)",
        "only 10 held-out queries, at least 20 are needed",
        "not shown to be no worse than the serving release",
        "clearly worse than BM25",
        f"nDCG@10 {noisy(0.3, 0, 10).mean():.4f} is below the floor of 0.4",
    ]


def test_a_challenger_clearly_worse_than_bm25_is_rejected_unless_the_floor_is_off() -> None:
    assert not judge(noisy(0.4, 0), None, bm25=0.6).promote
    assert judge(noisy(0.4, 0), None, bm25=0.6, bm25_floor=False).promote


def test_wording_follows_the_figures_when_a_loss_does_not_count() -> None:
    (_, floor) = judge(noisy(0.4, 0), noisy(0.4, 0), bm25=0.9, bm25_floor=False).findings
    assert (floor.held, floor.informs) == (True, True)
    assert floor.words.startswith("clearly worse than BM25: nDCG@10 -0.49")
    before = noisy(0.4, 99)  # equal to BM25
    level = np.random.default_rng(1).normal(0, 0.1, 300)
    for shift, words in ((0.001, "not clearly better than BM25"), (-0.001, "not clearly worse than BM25")):
        (_, floor) = judge(before + level - level.mean() + shift, before, bm25=0.4).findings
        assert (floor.held, floor.informs, floor.words.partition(":")[0]) == (True, shift < 0, words)


def test_every_failed_check_has_a_remedy() -> None:
    decision = judge(noisy(0.3, 0, 10), noisy(0.7, 2, 10), min_ndcg=0.4, withdrawn="r0007-a", golden=Answers(1, ("g",)))
    assert all(bool(check.remedy) is not check.held for check in decision.findings)
    before = noisy(0.7, 0)
    noise = np.random.default_rng(1).normal(0, 0.1, 300)
    after = before + noise - noise.mean() - 0.005
    (close,) = [check for check in judge(after, before).findings if not check.held]
    needs = re.search(r"about ([\d,]+) held-out queries, or a \[gate\] margin of at least ([\d.]+)", close.remedy)
    assert needs is not None
    assert int(needs[1].replace(",", "")) > 300
    assert judge(after, before, margin=float(needs[2]) + 0.001).promote
    (far,) = [check for check in judge(noisy(0.6, 0), noisy(0.7, 2)).findings if not check.held]
    assert far.remedy.startswith("a gain of 0.0")  # more queries would only confirm the loss


def test_before_the_first_release_the_base_model_is_a_floor() -> None:
    base = table(noisy(0.7, 3))
    (reason,) = judge(noisy(0.6, 0), None, base=base).reasons
    assert reason.startswith("clearly worse than the base model")
    assert judge(noisy(0.6, 0), noisy(0.6, 0), base=base).promote  # with a release it is only shown


def halves(count: int = 300) -> dict[str, np.ndarray]:
    first = np.arange(count) < count // 2
    return {"long queries": first, "short queries": ~first}


def test_a_segment_that_loses_while_others_gain_is_a_reason_to_reject() -> None:
    before = noisy(0.6, 0)
    after = before + np.where(halves()["long queries"], -0.1, 0.12)
    decision = judge(after, before, segments=halves())
    (reason,) = decision.reasons
    assert reason.startswith("worse on long queries: nDCG@10 -0.1000")
    assert "margin 0.05" in reason
    assert set(decision.slices) == set(halves())


def test_a_segment_within_its_margin_passes() -> None:
    before = noisy(0.6, 0)
    after = before + np.where(halves()["long queries"], -0.04, 0.12)
    assert "none of 2 segments lost more than 0.05" in judge(after, before, segments=halves()).reasons


def test_a_segment_that_is_small_or_only_unlucky_does_not_reject() -> None:
    before = np.full(300, 0.6)
    few = np.arange(300) < 49
    assert judge(before - 0.3 * few, before, segments={"few": few}, margin=0.1).promote  # fewer than slice_queries
    unlucky = np.zeros(300)
    unlucky[:60] = np.where(np.arange(60) % 2, 0.4, -0.4) - 0.055  # lost 0.055 on average, give or take 0.05
    decision = judge(before + unlucky, before, segments={"unlucky": np.arange(300) < 60}, margin=0.1)
    assert decision.slices["unlucky"].difference == pytest.approx(-0.055)
    assert decision.promote


def test_before_the_first_release_segments_are_shown_and_reject_nothing() -> None:
    base = noisy(0.6, 0)
    after = base + np.where(halves()["long queries"], -0.1, 0.12)
    decision = judge(after, None, base=table(base), segments=halves())
    assert decision.promote
    assert decision.slices["long queries"].against == "the base model"


def test_a_golden_query_without_its_answer_rejects_and_is_named() -> None:
    same = noisy(0.7, 0)
    assert "all 2 golden queries are answered" in judge(same, same, golden=Answers(2, ())).reasons
    missed = tuple(f"golden query “{n}”: passage p is at rank 34" for n in range(5))
    decision = judge(same, same, golden=Answers(9, missed))
    assert not decision.promote
    assert decision.reasons == (*missed[:3], "and 2 more of 9 golden queries")


def test_too_few_queries_decide_nothing() -> None:
    few = noisy(0.9, 0, count=5)
    assert "only 5 held-out queries" in judge(few, few).reasons[0]


def test_different_queries_are_never_compared() -> None:
    with pytest.raises(ValueError, match="same queries"):
        compare_paired("other", table(noisy(0.5, 0)), table(noisy(0.5, 0))[1:], RULES)


def test_the_interval_contains_the_mean_and_is_the_same_for_the_same_seed() -> None:
    comparison = compare_paired("other", table(noisy(0.6, 0)), table(noisy(0.5, 1)), RULES)
    assert comparison.low < comparison.difference < comparison.high
    assert comparison == compare_paired("other", table(noisy(0.6, 0)), table(noisy(0.5, 1)), RULES)


def test_the_interval_equals_the_normal_approximation_on_many_queries() -> None:
    ours, theirs = noisy(0.6, 0, 2000), noisy(0.5, 1, 2000)
    comparison = compare_paired("other", table(ours), table(theirs), RULES.model_copy(update={"resamples": 5000}))
    spread = 1.645 * (ours - theirs).std() / np.sqrt(2000)
    assert comparison.low == pytest.approx(comparison.difference - spread, abs=spread / 10)
    assert comparison.high == pytest.approx(comparison.difference + spread, abs=spread / 10)
