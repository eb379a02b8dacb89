"""Decide whether queries have drifted, one window at a time, from the state of earlier windows. Pure: no I/O, no clock.

A window fires when its low-score share exceeds a threshold: the level of normal windows plus three standard deviations,
and at least `low_score_effect`. The deviation combines the variation between windows and chance at the size of the
window. The first normal windows of a release set level and deviation. Until there are enough of them, the reference and
`[drift] wobble` take their place. Windows that fired or are suspect are not normal.

Damaged queries score low too, but they also contain unseen terms. On MedQuAD and on arXiv titles, their low-score share
rises by at most 1.6 times the rise of their unseen-term share, regardless of how many letters are wrong and in how many
queries. New topics, later months, and other domains raise it by at least 3.9 times. So windows with a rise of less than
EXPLAINED times, within chance, are suspect and do not start a retrain (tests/benchmarks/drift.py).
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.findings import LOW, Frozen, Measurement, Window

VERSION = 1
DEVIATIONS = 3
EXPLAINED = 2.5  # times the rise of the unseen-term share
PRIOR_LEVEL, PRIOR_WOBBLE = 2, 10  # number of windows that the reference and `wobble` count as
REMEMBERED = 60  # windows that the state keeps


class NormalWindow(Frozen):
    """The part of a normal window that calibrates the threshold."""

    queries: int
    low: float


class Baseline(Frozen):
    """The level of normal queries: a starting value, and the first normal windows."""

    start: float | None = LOW  # low-score share; None: taken from the first window
    queries: int = 0  # number behind `start`; 0: the queries of the reference
    windows: tuple[NormalWindow, ...] = ()


class Trigger(Frozen):
    """A requested retrain for drift."""

    at: datetime
    window: int  # number of the last window at that time


class LogPosition(Frozen):
    """The position up to which a query log was read."""

    path: str
    offset: int = 0  # bytes
    head: str = ""  # digest of the first line; a change means another file


class State(Frozen):
    """The state that is kept between checks."""

    version: int = VERSION
    reference: str = ""  # digest of the reference of baseline and last windows
    consumed: str = ""  # digest of the snapshot whose queries were judged already
    log: LogPosition | None = None
    number: int = 0  # of the last window
    baseline: Baseline = Baseline()
    windows: tuple[Window, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    labels_wanted: bool = False  # drift is confirmed, but nothing new to train on: new pairs will start a retrain


class RetrainDecision(Frozen):
    """Whether drift starts a retrain now."""

    trigger: bool = False
    held: str = ""  # why no retrain starts despite drift
    cause: str = ""  # what drifted, as a sentence; empty: nothing


def with_reference(state: State, reference: str) -> State:
    """Return the state for this reference; a new reference resets baseline and confirmation.

    After a retrain for drift, the first window only sets the new normal level. Otherwise, drift that the retrain could
    not fix, such as a topic without passages, would request one retrain after another.
    """
    if state.reference == reference:
        return state
    retrained = any(trigger.window > 0 and _has_reference(state, trigger) for trigger in state.triggers)
    baseline = Baseline(start=None if retrained else LOW)
    reset = {"reference": reference, "consumed": "", "baseline": baseline, "labels_wanted": False}
    return state.model_copy(update=reset)


def _has_reference(state: State, trigger: Trigger) -> bool:
    """Return whether the window of the trigger was compared with the current reference."""
    return any(window.number == trigger.window and window.reference == state.reference for window in state.windows)


def decide(
    state: State, measurement: Measurement | None, now: datetime, settings: DriftSettings
) -> tuple[State, RetrainDecision]:
    """Judge a new window, if any, and decide whether a retrain starts now.

    Returns:
        The state to keep, with a new trigger already recorded, and the decision.
    """
    if measurement is not None:
        state = _with_window(state, measurement, now, settings)
    decision = _decide_retrain(state, now, settings)
    if decision.trigger:
        kept = [
            trigger for trigger in state.triggers if now - trigger.at < timedelta(days=max(settings.budget_days, 366))
        ]
        state = state.model_copy(update={"triggers": (*kept, Trigger(at=now, window=state.number))})
    return state, decision


def is_window_due(state: State, queries: int, now: datetime, settings: DriftSettings) -> bool:
    """Return whether `queries` new queries make a window at time `now`."""
    last = state.windows[-1].at if state.windows else None
    return queries >= settings.min_queries and (last is None or now - last >= timedelta(hours=settings.window_hours))


def normal_level(baseline: Baseline) -> float:
    """Return the low-score share of normal windows; the starting value counts as PRIOR_LEVEL windows."""
    start = LOW if baseline.start is None else baseline.start
    windows = baseline.windows
    return (PRIOR_LEVEL * start + sum(window.low for window in windows)) / (PRIOR_LEVEL + len(windows))


def low_threshold(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """Return the low-score share above which a window of `queries` queries fires."""
    deviation = _deviation(baseline, queries, held_out, settings)
    return normal_level(baseline) + max(DEVIATIONS * deviation, settings.low_score_effect)


def _deviation(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """Return the standard deviation of the low-score share of a normal window around the level.

    The variance by chance at the size of each window is subtracted from the variance between windows and added again
    for the new window. `wobble` counts as PRIOR_WOBBLE windows with this deviation. The uncertainty of the level comes
    from the reference and the windows behind it.
    """
    level, windows = normal_level(baseline), baseline.windows
    total = PRIOR_LEVEL + len(windows)
    variance = max(level, LOW) * (1 - max(level, LOW))
    beyond = sum((window.low - level) ** 2 - variance / window.queries for window in windows)
    wobble = max(0.0, (PRIOR_WOBBLE * settings.wobble**2 + beyond) / (PRIOR_WOBBLE + len(windows)))
    level_variance = (PRIOR_LEVEL / total) ** 2 * variance / max(1, baseline.queries or held_out)
    level_variance += sum(wobble + variance / window.queries for window in windows) / total**2
    return math.sqrt(wobble + variance / queries + level_variance)


def recall_threshold(measurement: Measurement, settings: DriftSettings) -> float:
    """Return the Recall@10 below which labeled new queries count as answered worse than the reference."""
    spread = 0.25 / max(1, measurement.judged) + 0.25 / max(1, measurement.usual_judged)
    return measurement.usual_recall - max(DEVIATIONS * math.sqrt(spread), settings.recall_effect)


def looks_damaged(measurement: Measurement, baseline: Baseline, settings: DriftSettings) -> bool:
    """Return whether the queries look damaged: unseen terms, and no more low scores than they explain."""
    unseen = max(0.0, measurement.unseen - measurement.usual_unseen)
    # Without the deviation, 1 % of windows with a few wrong letters in a tenth of their queries counted as drift.
    explained = EXPLAINED * unseen + _deviation(baseline, measurement.queries, measurement.held_out, settings)
    low = measurement.low > low_threshold(baseline, measurement.queries, measurement.held_out, settings)
    return measurement.low - normal_level(baseline) < explained and (low or unseen > settings.unseen_terms)


def _with_window(state: State, measurement: Measurement, now: datetime, settings: DriftSettings) -> State:
    damaged = looks_damaged(measurement, state.baseline, settings)
    sets_level = state.baseline.start is None
    threshold = low_threshold(state.baseline, measurement.queries, measurement.held_out, settings)
    window = Window(
        number=state.number + 1,
        at=now,
        reference=state.reference,
        snapshot=state.consumed,
        queries=measurement.queries,
        low=measurement.low,
        threshold=threshold,
        fired=not damaged and not sets_level and measurement.low > threshold,
        worse=not damaged and measurement.judged > 0 and measurement.recall < recall_threshold(measurement, settings),
        suspect=damaged,
    )
    return state.model_copy(
        update={
            "number": window.number,
            "windows": (*state.windows, window)[-max(REMEMBERED, settings.confirm_of) :],
            "baseline": _with_normal(state.baseline, window, settings),
        }
    )


def _with_normal(baseline: Baseline, window: Window, settings: DriftSettings) -> Baseline:
    """Add a window to the baseline if it is normal and the baseline is not complete."""
    if window.fired or window.worse or window.suspect:
        return baseline
    if baseline.start is None:
        return Baseline(start=max(LOW, window.low), queries=window.queries)
    if len(baseline.windows) >= settings.baseline_windows:
        return baseline
    normal = NormalWindow(queries=window.queries, low=window.low)
    return baseline.model_copy(update={"windows": (*baseline.windows, normal)})


def _decide_retrain(state: State, now: datetime, settings: DriftSettings) -> RetrainDecision:
    after = state.triggers[-1].window if state.triggers else 0  # windows of earlier triggers do not count again
    last = [window for window in state.windows if window.reference == state.reference and window.number > after]
    last = last[-settings.confirm_of :]
    unfamiliar, worse = sum(window.fired for window in last), sum(window.worse for window in last)
    moved = max(unfamiliar, worse)
    if moved == 0:
        return RetrainDecision()
    signs = [f"low-score share rose in {unfamiliar} of the last {len(last)} windows"] * bool(unfamiliar)
    signs += [f"Recall@10 fell in {worse} of the last {len(last)} windows"] * bool(worse)
    cause = "drift of queries: " + "; ".join(signs)
    held = _reason_to_wait(state, moved, now, settings)
    return RetrainDecision(trigger=not held, held=held, cause=cause)


def _reason_to_wait(state: State, moved: int, now: datetime, settings: DriftSettings) -> str:
    """Return the reason why a retrain does not start yet; empty if it starts."""
    if moved < settings.confirm_windows:
        count = "first" if moved == 1 else f"number {moved}"
        return f"{count} of {settings.confirm_windows} windows"
    until = max((trigger.at for trigger in state.triggers), default=None)
    if until is not None and now < (until := until + timedelta(days=settings.cooldown_days)):
        return f"cooldown until {until:%Y-%m-%d %H:%M}"
    recent = [trigger for trigger in state.triggers if now - trigger.at < timedelta(days=settings.budget_days)]
    if len(recent) >= settings.budget:
        return f"budget of {settings.budget} in {settings.budget_days:g} days is spent"
    return "waits for a person's approval" if settings.approval else ""
