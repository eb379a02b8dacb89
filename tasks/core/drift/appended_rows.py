"""Include rows that were appended to the source, but are in no snapshot yet, in the result of a drift check."""

from __future__ import annotations

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.findings import Action, Changes, Drift
from tasks.core.drift.new_queries import ServingRelease
from tasks.core.drift.verdict import NEW_PAIRS, NEW_PASSAGES, describe, describe_changes, signal_of
from tasks.core.snapshot.reader import qrels
from tasks.core.snapshot.splits import Split


def with_appended_rows(
    drift: Drift, served: ServingRelease, passages: int, pairs: int, settings: DriftSettings
) -> Drift:
    """Return the action for the source with its appended rows.

    Args:
        drift: of the source without them.
        served: the serving release and its snapshot.
        passages: appended passages. All count as new.
        pairs: appended training pairs. All count as new.
        settings: thresholds.
    """
    changes = drift.passages
    changes = Changes(new=changes.new + passages, changed=changes.changed, gone=changes.gone)
    before = {**served.release.since_training, **{signal.name: signal.value for signal in drift.signals}}
    known_pairs = max(1, qrels(served.snapshot, Split.TRAIN).num_rows)
    moved = before.get(NEW_PASSAGES, 0.0) + passages / served.snapshot.rows
    data = (
        signal_of(NEW_PASSAGES, moved, settings.retrain_passages),
        signal_of(NEW_PAIRS, before.get(NEW_PAIRS, 0.0) + pairs / known_pairs, settings.retrain_pairs),
    )
    signals = data + tuple(signal for signal in drift.signals if signal.name not in (NEW_PASSAGES, NEW_PAIRS))
    action, cause = drift.verdict, drift.cause
    if action in (Action.SKIP, Action.REFRESH):
        fired = [describe(signal) for signal in data if signal.fired]
        if fired:
            action, cause = Action.RETRAIN, "; ".join(fired)
        elif changes.total:
            action, cause = Action.REFRESH, describe_changes(changes)
        if drift.held:
            cause = f"{cause}; no retrain yet: {drift.held}"
    return drift.model_copy(update={"verdict": action, "cause": cause, "passages": changes, "signals": signals})
