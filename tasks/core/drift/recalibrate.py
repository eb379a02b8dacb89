"""Calibrate drift detection for a new release from the windows that earlier releases saw. Pure: no I/O, no clock."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.core.drift.decide import Baseline, NormalWindow, State, Trigger

NO_WINDOWS: Mapping[int, NormalWindow] = {}


def with_reference(state: State, reference: str, rescored: Mapping[int, NormalWindow] = NO_WINDOWS) -> State:
    """Return the state for this reference; a new reference resets baseline and evidence.

    Earlier windows, scored again by the new encoder, calibrate the new release from its first window on. After a
    retrain for drift, the drifted windows set the new normal level; if none are known, the first window does.
    Otherwise, drift that the retrain could not fix, such as a topic without passages, would request one retrain after
    another.

    Args:
        state: the previous state.
        reference: digest of the reference of the serving release.
        rescored: earlier windows by number.
    """
    if state.reference == reference:
        return state
    retrained = any(trigger.window > 0 and _has_reference(state, trigger) for trigger in state.triggers)
    counted = [window for window in state.windows if window.number in rescored]
    chosen = tuple(rescored[window.number] for window in counted if (window.drifted if retrained else window.normal))
    labeled = state.baseline.labeled
    reset = {
        "reference": reference,
        "consumed": "" if state.reference else state.consumed,
        "baseline": Baseline.at_level_of(chosen) if retrained else Baseline(windows=chosen, labeled=labeled),
        "evidence": (),
        "labels_wanted": False,
    }
    return state.model_copy(update=reset)


def _has_reference(state: State, trigger: Trigger) -> bool:
    """Return whether the window of the trigger was compared with the current reference."""
    return any(window.number == trigger.window and window.reference == state.reference for window in state.windows)
