"""Decide what a night does: the least work that is enough, given what changed since the serving release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.resolved_settings import Record, differences, name_changes
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.decide import RetrainDecision
from tasks.core.drift.findings import LISTED, NOTHING_NEW, Action, Changes, Drift, Measurement, Signal
from tasks.core.drift.new_queries import Examination, ServingRelease
from tasks.core.snapshot.reader import compare, given_negatives, qrels
from tasks.core.snapshot.splits import Split

UNRECORDED = " (which ones is unknown, because an earlier version did not record them)"


def first_night(snapshot: Snapshot) -> Drift:
    """Return the action when no release serves: retrain."""
    return Drift(verdict=Action.RETRAIN, cause="no release serves yet", passages=Changes(new=snapshot.rows))


def without_snapshot(serving: Release, snapshot: Snapshot) -> Drift:
    """Return the action when the snapshot of the serving release is lost: changes are unknown, so retrain."""
    cause = f"snapshot {serving.snapshot} of release {serving.release} is lost, so changes cannot be determined"
    return Drift(verdict=Action.RETRAIN, cause=cause, passages=Changes(new=snapshot.rows))


SHAPING = ("encoder.", "mining.", "training.", "embedding.")  # sections whose settings shape an encoder
NEW_PAIRS, NEW_PASSAGES = "new_training_pairs", "new_and_changed_passages"


@dataclass(frozen=True)
class SnapshotChanges:
    """What changed between the serving snapshot and a new one, except the texts of queries."""

    changes: Changes
    signals: tuple[Signal, ...]
    recipe_changed: bool
    same: bool  # snapshot and settings are those of the serving release
    changed_settings: str = ""  # with their values

    @property
    def new_pairs(self) -> bool:
        """Whether there are training pairs that the serving release was not trained on."""
        return any(signal.name == NEW_PAIRS and signal.value > 0 for signal in self.signals)

    @property
    def learnable(self) -> bool:
        """Whether a retrain would differ from the training of the serving release."""
        return self.recipe_changed or self.new_pairs or self.changes != Changes()


def changed_settings(before: Record, now: Record) -> str:
    """Name the settings that shape an encoder and differ, with their values; `before` is empty if it is not known."""
    return name_changes(differences(before or now, now), SHAPING)


def compare_snapshots(
    served: ServingRelease, snapshot: Snapshot, recipe: str, settings: DriftSettings, changed: str = ""
) -> SnapshotChanges:
    """Compare passages, training pairs, and settings with those of the serving release.

    Both signals include what the refreshes since the last training have added, so slow growth causes a retrain as well.

    Args:
        served: the serving release and its snapshot.
        snapshot: the new one.
        recipe: digest of the settings that shape an encoder.
        settings: thresholds.
        changed: the settings that changed, with their values, for the cause.
    """
    recipe_changed = served.release.recipe != recipe
    if served.release.snapshot == snapshot.digest:
        return SnapshotChanges(Changes(), (), recipe_changed, not recipe_changed, changed)
    counts = compare(served.snapshot, snapshot)
    moved = (counts.new + counts.changed) / served.snapshot.rows
    before = served.release.since_training
    pairs = _share_of_new_pairs(served.snapshot, snapshot)
    signals = (
        signal_of(NEW_PASSAGES, moved + before.get(NEW_PASSAGES, 0.0), settings.retrain_passages),
        signal_of(NEW_PAIRS, pairs + before.get(NEW_PAIRS, 0.0), settings.retrain_pairs),
    )
    return SnapshotChanges(
        Changes(new=counts.new, changed=counts.changed, gone=counts.gone),
        signals,
        recipe_changed,
        same=False,
        changed_settings=changed,
    )


def untrained_changes(drift: Drift) -> dict[str, float]:
    """Return the signals that a refresh adds to those of the serving release, to store with the new release."""
    return {signal.name: signal.value for signal in drift.signals if signal.name in (NEW_PASSAGES, NEW_PAIRS)}


def query_signals(examination: Examination, low: float, recall: float, settings: DriftSettings) -> tuple[Signal, ...]:
    """Return the signals of examined queries; the last two are informative and never fire.

    Args:
        examination: of the queries.
        low: threshold of the low-score share.
        recall: threshold of Recall@10.
        settings: the other thresholds.
    """
    measured, explanation = examination.measured, examination.explanation
    signals = [
        signal_of("low_score_share", measured.low, low),
        signal_of("unseen_terms", measured.unseen, measured.usual_unseen + settings.unseen_terms),
    ]
    if measured.judged and measured.usual_judged:
        signals.append(
            Signal(name="recall@10", value=measured.recall, threshold=recall, fired=measured.recall < recall)
        )
    return (
        *signals,
        Signal(name="classifier_auc", value=explanation.classifier_auc, threshold=None, fired=False),
        Signal(name="term_divergence", value=explanation.term_divergence, threshold=None, fired=False),
    )


def explanation_fields(examination: Examination, signals: tuple[Signal, ...]) -> dict[str, Any]:
    """Return the fields of `Drift` that explain what moved."""
    explanation = examination.explanation
    drifted = any(signal.fired for signal in signals)
    unfamiliar = tuple(query for query, _ in examination.unfamiliar[:LISTED]) if drifted else ()
    return {"signals": signals, "terms": explanation.terms, "slices": explanation.slices, "unfamiliar": unfamiliar}


def decide_action(
    data: SnapshotChanges,
    fresh: dict[str, int],
    *,
    suspect_reason: str = "",
    query_drift: str = "",
    trigger: bool = False,
    signals: tuple[Signal, ...] = (),
    **fields: Any,
) -> Drift:
    """Choose the action from the changes of the data and the drift of queries.

    Args:
        data: what changed in the snapshot.
        fresh: new queries by origin: "snapshot" or "log".
        suspect_reason: why the input is suspect; empty if it is not.
        query_drift: what moved in the queries; empty if nothing did.
        trigger: whether that drift is confirmed and may start a retrain.
        signals: of the queries.
        fields: other fields of `Drift`.
    """
    action, cause = _choose_action(data, suspect_reason, query_drift, trigger)
    return Drift(
        verdict=action,
        cause=cause,
        passages=data.changes,
        fresh=fresh,
        trigger=trigger and action is Action.RETRAIN,
        signals=data.signals + signals,
        **fields,
    )


def describe_damage(measurement: Measurement) -> str:
    """Describe in a sentence why queries are suspect."""
    return (
        f"{measurement.unseen:.1%} of the terms of new queries were never seen before (usual: "
        f"{measurement.usual_unseen:.1%}), which explains all low scores ({measurement.low:.1%} of the queries): "
        "the input looks broken"
    )


def describe(signal: Signal) -> str:
    """Describe a fired signal: name, value, and threshold."""
    sign = "<" if signal.name == "recall@10" else ">"
    return f"{signal.name.replace('_', ' ')} {signal.value:.3f} {sign} {signal.threshold:.3f}"


def describe_changes(changes: Changes) -> str:
    """Describe how many passages changed, as the cause of a refresh."""
    counts = f"{changes.new} new, {changes.changed} changed, {changes.gone} deleted"
    return f"{changes.total} passage{'s' * (changes.total != 1)} changed ({counts})"


def describe_drift(decision: RetrainDecision, signals: tuple[Signal, ...]) -> str:
    """Describe what drifted, which signals of the last window fired, and why no retrain starts."""
    fired = [describe(signal) for signal in signals if signal.fired and signal.name != "unseen_terms"]
    waiting = [f"no retrain yet: {decision.held}"] if decision.held else []
    return "; ".join([*([decision.cause] if decision.cause else []), *fired, *waiting])


def _choose_action(data: SnapshotChanges, suspect_reason: str, query_drift: str, trigger: bool) -> tuple[Action, str]:
    if suspect_reason:
        return Action.SUSPECT, f"{suspect_reason}; check the source of the queries before training"
    causes = []
    if data.recipe_changed:
        named = f": {data.changed_settings}" if data.changed_settings else UNRECORDED
        causes.append(f"the settings that shape an encoder changed{named}")
    causes += [describe(signal) for signal in data.signals if signal.fired]
    drift = [query_drift] if query_drift else []
    if causes or (trigger and data.learnable):
        return Action.RETRAIN, "; ".join(causes + drift)
    if trigger:
        return Action.LABEL, "; ".join([*drift, NOTHING_NEW])
    if data.changes.total:
        return Action.REFRESH, "; ".join([describe_changes(data.changes), *drift])
    if data.same:
        return Action.SKIP, "; ".join(
            ["passages, queries, qrels, and settings are those of the serving release", *drift]
        )
    return Action.SKIP, "; ".join(drift or ["no passage changed, and too few new queries and pairs to act on"])


def signal_of(name: str, value: float, threshold: float) -> Signal:
    """Return a signal that fires above its threshold."""
    return Signal(name=name, value=value, threshold=threshold, fired=value > threshold)


def _share_of_new_pairs(old: Snapshot, new: Snapshot) -> float:
    """Return the number of new training pairs and given negatives, relative to the old training pairs."""
    (before, given_before), (now, given_now) = (
        (_pairs(qrels(snapshot, Split.TRAIN)), _pairs(given_negatives(snapshot))) for snapshot in (old, new)
    )
    return (len(now - before) + len(given_now - given_before)) / max(1, len(before))


def _pairs(table: pa.Table) -> set[tuple[str, str]]:
    return set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
