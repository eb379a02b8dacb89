"""Decide whether queries have drifted, one window at a time, from the state of earlier windows. Pure: no I/O, no clock.

Drift is confirmed when its evidence passes a line (evidence.py), or when Recall@10 fell in enough windows.

A window fires when its low-score share exceeds a threshold: the level of normal windows plus three standard deviations,
and at least `low_score_effect`. The deviation combines the variation between windows and chance at the size of the
window. The first normal windows of a release set level and deviation. Until there are enough of them, the reference and
`[drift] wobble` take their place. Windows that fired, are suspect, or show evidence of drift are not normal.

Damaged queries score low too, but they also contain unseen terms. On MedQuAD and on arXiv titles, their low-score share
rises by at most 1.6 times the rise of their unseen-term share, regardless of how many letters are wrong and in how many
queries. New topics, later months, and other domains raise it by at least 3.9 times. So windows with a rise of less than
EXPLAINED times, within chance, are suspect and do not start a retrain (tests/benchmarks/drift.py).
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.evidence import (
    MISMATCH,
    Calibration,
    Mean,
    add_window,
    alarm_line,
    calibrate,
    log_factors,
    total,
    unexplained_rise,
)
from tasks.core.drift.findings import LOW, Frozen, Measurement, Window
from tasks.core.drift.thresholds import Sampled, deviation_of, level_of

VERSION = 2  # version 1 had no evidence; it is read as well
DEVIATIONS = 3
EXPLAINED = 2.5  # times the rise of the unseen-term share
RECALL_VARIANCE = 0.25  # of the Recall@10 of a query, at most
RECALL_WOBBLE = 0.02  # assumed standard deviation of Recall@10 between windows: topics differ in it
REMEMBERED = 60  # windows that the state keeps
DELAY = 5  # windows after which a normal window enters the baseline, so slow drift does not hide itself


class NormalWindow(Frozen):
    """The part of a normal window that calibrates the threshold."""

    queries: int
    low: float
    unfamiliarity: float = 1.0


class LabeledWindow(Frozen):
    """The labeled queries of a normal window, which calibrate the threshold of Recall@10."""

    queries: int
    change: float  # of Recall@10, from the reference


class Baseline(Frozen):
    """The level of normal queries: starting values, and the first normal windows."""

    start: float | None = LOW  # low-score share; None: taken from the first window
    unfamiliarity: float = 1.0  # mean, at the start
    queries: int = 0  # number behind the starting values; 0: the queries of the reference
    windows: tuple[NormalWindow, ...] = ()
    waiting: tuple[NormalWindow, ...] = ()  # the last normal windows, at most DELAY
    labeled: tuple[LabeledWindow, ...] = ()

    @staticmethod
    def at_level_of(windows: tuple[NormalWindow, ...]) -> Baseline:
        """Return the baseline that takes these windows as normal; without any, it waits for the first window."""
        queries = sum(window.queries for window in windows)
        if not queries:
            return Baseline(start=None)
        low = sum(window.queries * window.low for window in windows) / queries
        unfamiliarity = sum(window.queries * window.unfamiliarity for window in windows) / queries
        return Baseline(start=max(LOW, low), unfamiliarity=max(1.0, unfamiliarity), queries=queries)


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
    evidence: tuple[float, ...] = ()  # logarithms, one for each rise; empty: none since the last alarm or release
    triggers: tuple[Trigger, ...] = ()
    labels_wanted: bool = False  # drift is confirmed, but nothing new to train on: new pairs will start a retrain


class RetrainDecision(Frozen):
    """Whether drift starts a retrain now."""

    trigger: bool = False
    held: str = ""  # why no retrain starts despite drift
    cause: str = ""  # what drifted, as a sentence; empty: nothing


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
        triggers = (*kept, Trigger(at=now, window=state.number))
        state = state.model_copy(update={"triggers": triggers, "evidence": ()})  # a retrain for each alarm
    return state, decision


def is_window_due(state: State, queries: int, now: datetime, settings: DriftSettings) -> bool:
    """Return whether `queries` new queries make a window at time `now`."""
    last = state.windows[-1].at if state.windows else None
    return queries >= settings.min_queries and (last is None or now - last >= timedelta(hours=settings.window_hours))


def normal_level(baseline: Baseline) -> float:
    """Return the low-score share of normal windows."""
    return level_of(LOW if baseline.start is None else baseline.start, _low_shares(baseline))


def low_threshold(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """Return the low-score share above which a window of `queries` queries fires."""
    deviation = _deviation(baseline, queries, held_out, settings)
    return normal_level(baseline) + max(DEVIATIONS * deviation, settings.low_score_effect)


def _deviation(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """Return the standard deviation of the low-score share of a normal window around the level."""
    level = normal_level(baseline)
    return deviation_of(
        level,
        _low_shares(baseline),
        queries=queries,
        start_queries=baseline.queries or held_out,
        variance=max(level, LOW) * (1 - max(level, LOW)),
        wobble=settings.wobble,
    )


def _low_shares(baseline: Baseline) -> list[Sampled]:
    return [Sampled(window.queries, window.low) for window in baseline.windows]


def calibration_of(baseline: Baseline, held_out: int) -> Calibration:
    """Return the calibration of the mean unfamiliarity."""
    windows = [Mean(window.queries, window.unfamiliarity) for window in baseline.windows]
    mismatch = 0.0 if baseline.queries else MISMATCH
    return calibrate(baseline.unfamiliarity, baseline.queries or held_out, windows, mismatch)


def recall_threshold(baseline: Baseline, measurement: Measurement, settings: DriftSettings) -> float:
    """Return the Recall@10 below which labeled new queries count as answered worse than usual.

    Topics differ in Recall@10, so the mix of a night changes it. Normal windows calibrate its level and deviation.
    """
    windows = [Sampled(window.queries, window.change) for window in baseline.labeled]
    level = level_of(0.0, windows)
    deviation = deviation_of(
        level,
        windows,
        queries=max(1, measurement.judged),
        start_queries=measurement.usual_judged,
        variance=RECALL_VARIANCE,
        wobble=RECALL_WOBBLE,
    )
    return measurement.usual_recall + level - max(DEVIATIONS * deviation, settings.recall_effect)


def looks_damaged(measurement: Measurement, baseline: Baseline, settings: DriftSettings) -> bool:
    """Return whether the queries look damaged: unseen terms, and no more low scores than they explain."""
    unseen = max(0.0, measurement.unseen - measurement.usual_unseen)
    # Without the deviation, 1 % of windows with a few wrong letters in a tenth of their queries counted as drift.
    explained = EXPLAINED * unseen + _deviation(baseline, measurement.queries, measurement.held_out, settings)
    low = measurement.low > low_threshold(baseline, measurement.queries, measurement.held_out, settings)
    return measurement.low - normal_level(baseline) < explained and (low or unseen > settings.unseen_terms)


def _with_window(state: State, measurement: Measurement, now: datetime, settings: DriftSettings) -> State:
    damaged = looks_damaged(measurement, state.baseline, settings)
    counts = not damaged and not measurement.repeats and state.baseline.start is not None
    threshold = low_threshold(state.baseline, measurement.queries, measurement.held_out, settings)
    evidence = _add_evidence(state, measurement, settings) if counts else state.evidence
    recall_fell = measurement.judged > 0 and measurement.recall < recall_threshold(
        state.baseline, measurement, settings
    )
    window = Window(
        number=state.number + 1,
        at=now,
        reference=state.reference,
        snapshot=state.consumed,
        queries=measurement.queries,
        low=measurement.low,
        threshold=threshold,
        fired=counts and measurement.low > threshold,
        worse=not damaged and not measurement.repeats and measurement.judged > 0 and recall_fell,
        suspect=damaged,
        unfamiliarity=measurement.unfamiliarity,
        evidence=total(evidence),
        line=alarm_line(settings),
        repeats=measurement.repeats,
    )
    return state.model_copy(
        update={
            "number": window.number,
            "windows": (*state.windows, window)[-max(REMEMBERED, settings.confirm_of) :],
            "evidence": evidence,
            "baseline": _with_normal(state.baseline, window, measurement, settings),
        }
    )


def _add_evidence(state: State, measurement: Measurement, settings: DriftSettings) -> tuple[float, ...]:
    """Return the evidence after a window."""
    calibration, line = calibration_of(state.baseline, measurement.held_out), alarm_line(settings)
    rise = unexplained_rise(measurement, calibration)
    factors = log_factors(rise, measurement.queries, calibration, line, settings.confirm_windows)
    return add_window(state.evidence, factors, line)


def _with_normal(baseline: Baseline, window: Window, measurement: Measurement, settings: DriftSettings) -> Baseline:
    """Add a window to the baseline, after a delay, if it is normal and the baseline is not complete."""
    if not window.normal:
        return baseline
    normal = NormalWindow(queries=window.queries, low=window.low, unfamiliarity=window.unfamiliarity)
    if baseline.start is None:
        return Baseline.at_level_of((normal,))
    waiting = (*baseline.waiting, normal)
    due, waiting = waiting[:-DELAY], waiting[-DELAY:]
    windows = (*baseline.windows, *due)[: max(settings.baseline_windows, len(baseline.windows))]
    labeled = baseline.labeled
    if measurement.judged and len(labeled) < settings.baseline_windows:
        change = measurement.recall - measurement.usual_recall
        labeled = (*labeled, LabeledWindow(queries=measurement.judged, change=change))
    return baseline.model_copy(update={"windows": windows, "waiting": waiting, "labeled": labeled})


def _decide_retrain(state: State, now: datetime, settings: DriftSettings) -> RetrainDecision:
    after = state.triggers[-1].window if state.triggers else 0  # windows of earlier triggers do not count again
    last = [window for window in state.windows if window.reference == state.reference and window.number > after]
    last = last[-settings.confirm_of :]
    line, evidence, worse = alarm_line(settings), total(state.evidence), sum(window.worse for window in last)
    signs = []
    if evidence >= math.sqrt(line):
        relation = "passed" if evidence >= line else "is on its way to"
        signs.append(f"evidence {evidence:,.0f} {relation} the line of {line:,.0f}")
    signs += [f"Recall@10 fell in {worse} of the last {len(last)} windows"] * bool(worse)
    if not signs:
        return RetrainDecision()
    confirmed = evidence >= line or worse >= settings.confirm_windows
    held = _reason_to_wait(state, now, settings) if confirmed else _progress(evidence, line, worse, settings)
    return RetrainDecision(trigger=not held, held=held, cause="drift of queries: " + "; ".join(signs))


def _progress(evidence: float, line: float, worse: int, settings: DriftSettings) -> str:
    """Return what is missing until drift is confirmed."""
    if worse:
        return f"{worse} of {settings.confirm_windows} windows"
    return f"evidence {evidence:,.0f} of {line:,.0f}"


def _reason_to_wait(state: State, now: datetime, settings: DriftSettings) -> str:
    """Return the reason why a retrain for confirmed drift does not start yet; empty if it starts."""
    until = max((trigger.at for trigger in state.triggers), default=None)
    if until is not None and now < (until := until + timedelta(days=settings.cooldown_days)):
        return f"cooldown until {until:%Y-%m-%d %H:%M}"
    recent = [trigger for trigger in state.triggers if now - trigger.at < timedelta(days=settings.budget_days)]
    if len(recent) >= settings.budget:
        return f"budget of {settings.budget} in {settings.budget_days:g} days is spent"
    return "waits for a person's approval" if settings.approval else ""
