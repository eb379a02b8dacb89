"""Drift decisions from measurements."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

from tasks.core.base.settings import DriftSettings
from tasks.core.drift.decide import (
    Baseline,
    NormalWindow,
    RetrainDecision,
    State,
    decide,
    is_window_due,
    looks_damaged,
    low_threshold,
)
from tasks.core.drift.findings import Measurement
from tasks.core.drift.recalibrate import with_reference

NIGHT = datetime(2026, 11, 1, 2, tzinfo=UTC)
RULES = DriftSettings()


def window_of(
    low: float = 0.05,
    *,
    unseen: float = 0.0,
    recall: float = 0.8,
    judged: int = 0,
    queries: int = 1000,
    repeats: int = 0,
) -> Measurement:
    """Return a window; unfamiliarity rises six times as much as the low-score share, as with new topics."""
    return Measurement(
        queries=queries,
        unfamiliarity=1 + 6 * (low - 0.05),
        repeats=repeats,
        low=low,
        raw_low=low,
        unseen=unseen,
        held_out=2000,
        usual_unseen=0.0,
        judged=judged,
        recall=recall,
        usual_judged=1000,
        usual_recall=0.8,
    )


def nights(
    *figures: Measurement | None, rules: DriftSettings = RULES, state: State | None = None, first: int = 0
) -> tuple[State, list[RetrainDecision]]:
    """Decide on a window per night; return the state and all decisions."""
    state, decisions = state or State(reference="r"), []
    for number, measurement in enumerate(figures):
        state, decision = decide(state, measurement, NIGHT + timedelta(days=first + number), rules)
        decisions.append(decision)
    return state, decisions


def test_two_extraordinary_windows_are_drift_and_a_single_window_is_not() -> None:
    _, decisions = nights(window_of(0.9), window_of(0.9))
    assert [decision.trigger for decision in decisions] == [False, True]
    assert [decision.held for decision in decisions] == ["evidence 162 of 8,760", ""]


def test_evidence_of_a_single_window_fades_in_normal_windows() -> None:
    state, decisions = nights(window_of(0.2), *[window_of()] * 20, window_of(0.2))
    assert not any(decision.trigger for decision in decisions)
    assert state.windows[-2].evidence < 2 < state.windows[0].evidence


def test_small_windows_add_up() -> None:
    normal, _ = nights(*[window_of(queries=200)] * 20)
    low = 0.067  # 5 % new topics
    single, _ = nights(window_of(low, queries=200), state=normal, first=20)
    assert single.windows[-1].evidence < 10
    _, decisions = nights(*[window_of(low, queries=200)] * 20, state=normal, first=20)
    assert any(decision.trigger for decision in decisions)


def test_a_repeated_window_changes_neither_evidence_nor_baseline() -> None:
    before, _ = nights(window_of(0.2))
    after, decisions = nights(window_of(0.2, repeats=1), state=before, first=1)
    assert (after.evidence, after.baseline) == (before.evidence, before.baseline)
    assert not decisions[-1].trigger


def test_lasting_drift_starts_no_retrain_during_the_cooldown_and_starts_another_after_it() -> None:
    _, decisions = nights(*[window_of(0.2)] * 10)
    assert [number for number, decision in enumerate(decisions) if decision.trigger] == [1, 8]
    assert decisions[3].held == "cooldown until 2026-11-09 02:00"


def test_the_same_windows_trigger_only_once() -> None:
    state, _ = nights(window_of(0.2), window_of(0.2))
    _, decisions = nights(None, state=state, first=30)
    assert decisions == [RetrainDecision()]


def test_a_spent_budget_blocks_retrains_until_its_period_ends() -> None:
    rules = RULES.model_copy(update={"cooldown_days": 0.0, "budget": 2})
    state, decisions = nights(*[window_of(0.2)] * 8, rules=rules)
    assert [number for number, decision in enumerate(decisions) if decision.trigger] == [1, 3]
    assert decisions[-1].held == "budget of 2 in 30 days is spent"
    _, later = nights(window_of(0.2), rules=rules, state=state, first=32)
    assert later[0].trigger


def test_with_approval_nothing_starts_automatically() -> None:
    _, decisions = nights(*[window_of(0.2)] * 3, rules=RULES.model_copy(update={"approval": True}))
    assert not any(decision.trigger for decision in decisions)
    assert decisions[-1].held == "waits for a person's approval"


def test_damaged_queries_never_trigger_a_retrain() -> None:
    for low, unseen in ((0.05, 0.06), (0.12, 0.05), (0.6, 0.4), (1.0, 0.9)):
        state, decisions = nights(*[window_of(low, unseen=unseen)] * 20)
        assert not any(decision.trigger or decision.held for decision in decisions)
        assert all(window.suspect for window in state.windows)
        assert state.baseline == Baseline()


def test_unseen_terms_with_many_more_low_scores_are_drift_and_not_damage() -> None:
    _, decisions = nights(*[window_of(0.35, unseen=0.06)] * 2)
    assert decisions[-1].trigger


def test_a_few_unseen_terms_without_low_scores_are_neither_drift_nor_damage() -> None:
    assert not looks_damaged(window_of(unseen=0.04), Baseline(), RULES)
    assert nights(*[window_of(unseen=0.04)] * 5)[1] == [RetrainDecision()] * 5


def test_fired_and_suspect_windows_do_not_calibrate_the_threshold() -> None:
    state, _ = nights(window_of(0.04), window_of(0.2), window_of(0.05, unseen=0.2), *[window_of(0.041)] * 20)
    calibrating = [window.low for window in (*state.baseline.windows, *state.baseline.waiting)]
    assert set(calibrating) == {0.04, 0.041}
    assert len(state.baseline.waiting) == 5


def test_the_baseline_stays_at_the_first_normal_windows_under_slow_drift() -> None:
    state, decisions = nights(*[window_of(0.05)] * 25, *[window_of(0.05 + 0.001 * night) for night in range(60)])
    assert len(state.baseline.windows) >= 20
    assert max(window.low for window in state.baseline.windows) < 0.08
    assert any(decision.trigger for decision in decisions)


def test_another_reference_resets_the_baseline_but_keeps_cooldown_and_budget() -> None:
    state, _ = nights(*[window_of(0.04)] * 5, *[window_of(0.2)] * 2)
    state = with_reference(state, "other")
    assert state.baseline.windows == ()
    assert len(state.triggers) == 1
    _, decisions = nights(window_of(), *[window_of(0.2)] * 3, state=state, first=8)
    assert [decision.held for decision in decisions] == [
        "",
        "evidence 162 of 8,760",
        *["cooldown until 2026-11-14 02:00"] * 2,
    ]


def test_drift_that_survives_a_retrain_requests_no_further_retrain() -> None:
    state, decisions = nights(*[window_of(0.2)] * 2)
    assert decisions[-1].trigger
    state, decisions = nights(*[window_of(0.2)] * 30, state=with_reference(state, "other"), first=3)
    assert not any(decision.trigger or decision.held for decision in decisions)
    assert nights(*[window_of(0.3)] * 2, state=state, first=40)[1][-1].trigger


def test_a_promotion_for_another_reason_does_not_turn_drift_into_the_baseline() -> None:
    state, _ = nights(*[window_of(0.04)] * 5)
    assert nights(*[window_of(0.2)] * 2, state=with_reference(state, "other"), first=6)[1][-1].trigger


def test_earlier_windows_calibrate_a_new_release() -> None:
    state, _ = nights(*[window_of(0.04)] * 5, window_of(0.06, unseen=0.2))
    rescored = {number: NormalWindow(queries=250, low=0.03, unfamiliarity=0.9) for number in range(1, 7)}
    state = with_reference(state, "other", rescored)
    assert len(state.baseline.windows) == 5  # the suspect window does not count
    assert {window.unfamiliarity for window in state.baseline.windows} == {0.9}


def test_after_a_retrain_the_drifted_windows_set_the_level_of_the_new_release() -> None:
    state, decisions = nights(*[window_of(0.04)] * 5, *[window_of(0.3)] * 2)
    assert decisions[-1].trigger
    rescored = {number: NormalWindow(queries=250, low=0.1 * (number > 5), unfamiliarity=number) for number in range(8)}
    state = with_reference(state, "other", rescored)
    assert (state.baseline.start, state.baseline.unfamiliarity, state.baseline.queries) == (0.1, 6.5, 500)


def test_the_threshold_is_three_deviations_above_the_level_of_normal_windows() -> None:
    rules = RULES.model_copy(update={"wobble": 0.0, "low_score_effect": 0.0})
    chance = 0.05 * 0.95
    assert math.isclose(
        low_threshold(Baseline(), 1000, 2000, rules), 0.05 + 3 * math.sqrt(chance / 1000 + chance / 2000)
    )
    baseline = Baseline(windows=tuple(NormalWindow(queries=10**9, low=low) for low in (0.04, 0.06) * 10))
    level, wobble = 0.05, 20 * 0.01**2 / 30
    of_level = (2 / 22) ** 2 * chance / 2000 + 20 * wobble / 22**2
    expected = level + 3 * math.sqrt(wobble + chance / 1000 + of_level)
    assert math.isclose(low_threshold(baseline, 1000, 2000, rules), expected, rel_tol=1e-6)


def test_the_minimum_effect_is_required_for_any_number_of_queries() -> None:
    rules = RULES.model_copy(update={"wobble": 0.0, "low_score_effect": 0.03})
    assert math.isclose(low_threshold(Baseline(), 10**9, 10**9, rules), 0.08)


def test_a_drop_in_recall_is_confirmed_separately() -> None:
    _, decisions = nights(*[window_of(recall=0.6, judged=1000)] * 2)
    assert decisions[-1].trigger
    assert decisions[-1].cause == "drift of queries: Recall@10 fell in 2 of the last 2 windows"
    _, mixed = nights(window_of(0.2), window_of(recall=0.6, judged=1000))
    assert not mixed[-1].trigger
    assert not any(decision.trigger for decision in nights(*[window_of(recall=0.6, judged=20)] * 5)[1])


def test_a_recall_that_varies_with_the_mix_of_topics_is_no_drift() -> None:
    usual = [window_of(recall=0.8 + change, judged=1000) for change in (0.05, -0.06) * 10]
    state, decisions = nights(*usual)
    assert not any(decision.trigger for decision in decisions)
    low = [window_of(recall=0.7, judged=1000)] * 2
    assert nights(*low)[1][-1].trigger
    assert not nights(*low, state=state, first=30)[1][-1].trigger  # 0.7 is in the range of the normal windows
    assert nights(*[window_of(recall=0.5, judged=1000)] * 2, state=state, first=30)[1][-1].trigger


def test_a_new_release_keeps_the_level_of_recall() -> None:
    state, _ = nights(*[window_of(recall=0.7 + 0.05, judged=1000)] * 10)
    assert len(with_reference(state, "next").baseline.labeled) == 10


def test_a_window_is_due_by_count_and_by_time() -> None:
    state, _ = nights(window_of())
    assert not is_window_due(State(), 49, NIGHT, RULES)
    assert is_window_due(State(), 50, NIGHT, RULES)
    assert not is_window_due(state, 50, NIGHT + timedelta(hours=19), RULES)
    assert is_window_due(state, 50, NIGHT + timedelta(hours=20), RULES)
