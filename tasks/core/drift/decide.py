"""When new queries have drifted: one window at a time, from what earlier windows left in the state. No input, no clock.

A window fires when its low-score share passes a threshold: the level of normal windows, plus three standard deviations,
of what windows differ by beyond chance and of chance at this size, and never less than the least effect. The first
normal windows of a release set level and deviation; until there are enough, the reference and `[drift] wobble` stand in
for them. A window that fired or is suspect is no normal one.

Damaged queries score low too, but not without words that nothing knows: on MedQuAD and on arXiv titles their low-score
share rises by at most 1.6 times as much as their unseen-term share, however many letters are wrong and in however
many of the queries. With new topics, later months or another domain it rises by 3.9 times as much and more. So windows
that rise by less than EXPLAINED times as much, give or take chance, are suspect and no reason to retrain
(tests/benchmarks/drift.py).
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.findings import LOW, Frozen, Measurement, Window

VERSION = 1
DEVIATIONS = 3
EXPLAINED = 2.5  # times the rise of the unseen-term share
PRIOR_LEVEL, PRIOR_WOBBLE = 2, 10  # windows that the reference counts as
REMEMBERED = 60  # windows that the state keeps


class Normal(Frozen):
    """A normal window, as far as it calibrates."""

    queries: int
    low: float


class Baseline(Frozen):
    """What is normal: where to start from, and the first normal windows."""

    start: float | None = LOW  # low-score share; None: what the first window will show
    queries: int = 0  # that `start` comes from; 0: those of the reference
    windows: tuple[Normal, ...] = ()


class Trigger(Frozen):
    """A retrain for drift that was asked for."""

    at: datetime
    window: int  # the last one then


class LogPlace(Frozen):
    """How far a log of queries was judged."""

    path: str
    offset: int = 0  # bytes
    head: str = ""  # digest of its first line: another one is another file


class State(Frozen):
    """All that is remembered between checks."""

    version: int = VERSION
    reference: str = ""  # digest of the reference that baseline and last windows hold for
    consumed: str = ""  # snapshot whose queries the last windows have seen
    log: LogPlace | None = None
    number: int = 0  # of the last window
    baseline: Baseline = Baseline()
    windows: tuple[Window, ...] = ()
    triggers: tuple[Trigger, ...] = ()
    labels_wanted: bool = False  # drift was confirmed with nothing new to train on; the first new pairs start a retrain


class Decision(Frozen):
    """What follows from the state, now."""

    trigger: bool = False
    held: str = ""
    cause: str = ""  # what moved, in words; empty: nothing did


def under(state: State, reference: str) -> State:
    """The state under this reference: baseline and confirmation begin anew with another one.

    After a retrain for drift the first window only shows what is normal now. What the retrain could not mend, such as
    a topic that no passage is about, would else ask for one retrain after the other.
    """
    if state.reference == reference:
        return state
    acted = any(one.window > 0 and _under(state, one) for one in state.triggers)
    baseline = Baseline(start=None if acted else LOW)
    begun = {"reference": reference, "consumed": "", "baseline": baseline, "labels_wanted": False}
    return state.model_copy(update=begun)


def _under(state: State, trigger: Trigger) -> bool:
    """Whether a trigger came under the state's reference."""
    return any(one.number == trigger.window and one.reference == state.reference for one in state.windows)


def decide(state: State, found: Measurement | None, now: datetime, settings: DriftSettings) -> tuple[State, Decision]:
    """Judge a window, None when there is none, and say whether a retrain should start now.

    Returns the state to keep, in which a trigger is on record already, and the decision.
    """
    if found is not None:
        state = _with_window(state, found, now, settings)
    decision = _standing(state, now, settings)
    if decision.trigger:
        kept = [one for one in state.triggers if now - one.at < timedelta(days=max(settings.budget_days, 366))]
        state = state.model_copy(update={"triggers": (*kept, Trigger(at=now, window=state.number))})
    return state, decision


def is_window_due(state: State, queries: int, now: datetime, settings: DriftSettings) -> bool:
    """Whether so many new queries are a window by now."""
    last = state.windows[-1].at if state.windows else None
    return queries >= settings.min_queries and (last is None or now - last >= timedelta(hours=settings.window_hours))


def level_of(baseline: Baseline) -> float:
    """The low-score share of normal windows; the reference, whose own is LOW, counts as PRIOR_LEVEL of them."""
    start = LOW if baseline.start is None else baseline.start
    known = baseline.windows
    return (PRIOR_LEVEL * start + sum(one.low for one in known)) / (PRIOR_LEVEL + len(known))


def low_threshold(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """The low-score share that a window of so many queries has to pass."""
    deviation = _deviation(baseline, queries, held_out, settings)
    return level_of(baseline) + max(DEVIATIONS * deviation, settings.low_score_effect)


def _deviation(baseline: Baseline, queries: int, held_out: int, settings: DriftSettings) -> float:
    """Standard deviation of a normal window's low-score share around the level.

    What chance alone does at each window's own size is taken out of the deviation between windows and put back for
    this one; `wobble` counts as PRIOR_WOBBLE windows that deviate so. The level is as uncertain as the reference and
    the windows that it comes from.
    """
    level, known = level_of(baseline), baseline.windows
    total = PRIOR_LEVEL + len(known)
    variance = max(level, LOW) * (1 - max(level, LOW))
    beyond = sum((one.low - level) ** 2 - variance / one.queries for one in known)
    wobble = max(0.0, (PRIOR_WOBBLE * settings.wobble**2 + beyond) / (PRIOR_WOBBLE + len(known)))
    of_level = (PRIOR_LEVEL / total) ** 2 * variance / max(1, baseline.queries or held_out)
    of_level += sum(wobble + variance / one.queries for one in known) / total**2
    return math.sqrt(wobble + variance / queries + of_level)


def recall_threshold(found: Measurement, settings: DriftSettings) -> float:
    """The Recall@10 below which new labelled queries are answered worse than the reference's were."""
    spread = 0.25 / max(1, found.judged) + 0.25 / max(1, found.usual_judged)
    return found.usual_recall - max(DEVIATIONS * math.sqrt(spread), settings.recall_effect)


def suspect(found: Measurement, baseline: Baseline, settings: DriftSettings) -> bool:
    """Whether the queries look broken: words that nothing knows, and no more low scores than those explain."""
    unseen = max(0.0, found.unseen - found.usual_unseen)
    # Without the deviation, one in a hundred tenths of queries with a few wrong letters passed for new content.
    explained = EXPLAINED * unseen + _deviation(baseline, found.queries, found.held_out, settings)
    low = found.low > low_threshold(baseline, found.queries, found.held_out, settings)
    return found.low - level_of(baseline) < explained and (low or unseen > settings.unseen_terms)


def _with_window(state: State, found: Measurement, now: datetime, settings: DriftSettings) -> State:
    broken = suspect(found, state.baseline, settings)
    learns = state.baseline.start is None
    threshold = low_threshold(state.baseline, found.queries, found.held_out, settings)
    window = Window(
        number=state.number + 1,
        at=now,
        reference=state.reference,
        snapshot=state.consumed,
        queries=found.queries,
        low=found.low,
        threshold=threshold,
        fired=not broken and not learns and found.low > threshold,
        worse=not broken and found.judged > 0 and found.recall < recall_threshold(found, settings),
        suspect=broken,
    )
    return state.model_copy(
        update={
            "number": window.number,
            "windows": (*state.windows, window)[-max(REMEMBERED, settings.confirm_of) :],
            "baseline": _with_normal(state.baseline, window, settings),
        }
    )


def _with_normal(baseline: Baseline, window: Window, settings: DriftSettings) -> Baseline:
    """The baseline after a window, which belongs to it when it is a normal one and there is room."""
    if window.fired or window.worse or window.suspect:
        return baseline
    if baseline.start is None:
        return Baseline(start=max(LOW, window.low), queries=window.queries)
    if len(baseline.windows) >= settings.baseline_windows:
        return baseline
    one = Normal(queries=window.queries, low=window.low)
    return baseline.model_copy(update={"windows": (*baseline.windows, one)})


def _standing(state: State, now: datetime, settings: DriftSettings) -> Decision:
    after = state.triggers[-1].window if state.triggers else 0  # what was acted on is not counted again
    last = [one for one in state.windows if one.reference == state.reference and one.number > after]
    last = last[-settings.confirm_of :]
    unfamiliar, worse = sum(one.fired for one in last), sum(one.worse for one in last)
    most = max(unfamiliar, worse)
    if most == 0:
        return Decision()
    what = [f"low-score share rose in {unfamiliar} of the last {len(last)} windows"] * bool(unfamiliar)
    what += [f"Recall@10 fell in {worse} of the last {len(last)} windows"] * bool(worse)
    cause = "drift of queries: " + "; ".join(what)
    held = _held(state, most, now, settings)
    return Decision(trigger=not held, held=held, cause=cause)


def _held(state: State, moved: int, now: datetime, settings: DriftSettings) -> str:
    """What keeps a retrain from starting; empty: nothing."""
    if moved < settings.confirm_windows:
        count = "first" if moved == 1 else f"number {moved}"
        return f"{count} of {settings.confirm_windows} windows"
    until = max((one.at for one in state.triggers), default=None)
    if until is not None and now < (until := until + timedelta(days=settings.cooldown_days)):
        return f"cooldown until {until:%Y-%m-%d %H:%M}"
    recent = [one for one in state.triggers if now - one.at < timedelta(days=settings.budget_days)]
    if len(recent) >= settings.budget:
        return f"budget of {settings.budget} in {settings.budget_days:g} days is spent"
    return "waits for a person's approval" if settings.approval else ""
