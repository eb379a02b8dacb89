"""What a night has to do: the least work that is enough, decided from what changed since the serving release."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.decide import recall_threshold
from tasks.core.drift.findings import LISTED, NOTHING_NEW, Action, Changes, Drift, Measurement, Signal
from tasks.core.drift.new_queries import Examination, ServingRelease
from tasks.core.snapshot.reader import compare, qrels


def first(snapshot: Snapshot) -> Drift:
    """The verdict when nothing serves."""
    return Drift(verdict=Action.RETRAIN, cause="no release serves yet", passages=Changes(new=snapshot.rows))


def incomparable(serving: Release, snapshot: Snapshot) -> Drift:
    """The verdict when the serving release's snapshot is lost: what changed is unknown, so the whole work is done."""
    cause = f"snapshot {serving.snapshot} of release {serving.release} is lost, so nothing can be compared with it"
    return Drift(verdict=Action.RETRAIN, cause=cause, passages=Changes(new=snapshot.rows))


NEW_PAIRS = "new_training_pairs"


@dataclass(frozen=True)
class Data:
    """A snapshot beside the serving one, leaving its queries' texts aside."""

    changes: Changes
    signals: tuple[Signal, ...]
    recipe_changed: bool
    same: bool  # it is the serving one, and so are the settings

    @property
    def new_pairs(self) -> bool:
        """Whether there are training pairs that the serving release has not learned from."""
        return any(signal.name == NEW_PAIRS and signal.value > 0 for signal in self.signals)

    @property
    def learnable(self) -> bool:
        """Whether a retrain would differ from the one that made the serving release."""
        return self.recipe_changed or self.new_pairs or self.changes != Changes()


def compare_snapshots(served: ServingRelease, snapshot: Snapshot, recipe: str, settings: DriftSettings) -> Data:
    """Passages, training pairs and settings beside those of the serving release."""
    recipe_changed = served.release.recipe != recipe
    if served.release.snapshot == snapshot.digest:
        return Data(Changes(), (), recipe_changed, same=not recipe_changed)
    counts = compare(served.snapshot, snapshot)
    moved = (counts.new + counts.changed) / served.snapshot.rows
    signals = (
        _signal("new_and_changed_passages", moved, settings.retrain_passages),
        _signal(NEW_PAIRS, _new_pairs(served.snapshot, snapshot), settings.retrain_pairs),
    )
    return Data(Changes(new=counts.new, changed=counts.changed, gone=counts.gone), signals, recipe_changed, same=False)


def query_signals(found: Examination, threshold: float, settings: DriftSettings) -> tuple[Signal, ...]:
    """The signals of examined queries; the last two explain and never fire."""
    one, why = found.measured, found.explanation
    signals = [
        _signal("low_score_share", one.low, threshold),
        _signal("unseen_terms", one.unseen, one.usual_unseen + settings.unseen_terms),
    ]
    if one.judged and one.usual_judged:
        signals.append(_recall_signal(one, settings))
    return (
        *signals,
        Signal(name="classifier_auc", value=why.classifier_auc, threshold=None, fired=False),
        Signal(name="term_divergence", value=why.term_divergence, threshold=None, fired=False),
    )


def with_explanation(found: Examination, signals: tuple[Signal, ...]) -> dict[str, Any]:
    """The fields of a verdict that say what moved."""
    why = found.explanation
    drifted = any(signal.fired for signal in signals)
    unfamiliar = tuple(query for query, _ in found.unfamiliar[:LISTED]) if drifted else ()
    return {"signals": signals, "terms": why.terms, "slices": why.slices, "unfamiliar": unfamiliar}


def decide_action(
    data: Data,
    fresh: dict[str, int],
    *,
    broken: str = "",
    drifting: str = "",
    trigger: bool = False,
    signals: tuple[Signal, ...] = (),
    **more: Any,
) -> Drift:
    """The verdict on data and queries.

    broken: why the input is suspect. drifting: what moved in the queries. trigger: that is reason enough to retrain.
    """
    verdict, cause = _verdict(data, broken, drifting, trigger)
    return Drift(
        verdict=verdict,
        cause=cause,
        passages=data.changes,
        fresh=fresh,
        trigger=trigger and verdict is Action.RETRAIN,
        signals=data.signals + signals,
        **more,
    )


def unknown_words(found: Measurement) -> str:
    """What is wrong with suspect queries, in words."""
    return (
        f"{found.unseen:.1%} of the terms of new queries were seen nowhere before, {found.usual_unseen:.1%} are usual, "
        f"and low scores ({found.low:.1%} of the queries) are no more than that explains: input looks broken"
    )


def describe(signal: Signal) -> str:
    """A signal that fired, in words."""
    sign = "<" if signal.name == "recall@10" else ">"
    return f"{signal.name.replace('_', ' ')} {signal.value:.3f} {sign} {signal.threshold:.3f}"


def _verdict(data: Data, broken: str, drifting: str, trigger: bool) -> tuple[Action, str]:
    if broken:
        return (
            Action.SUSPECT,
            f"{broken}; look at the feed before training",
        )
    causes = ["the settings that shape an encoder changed"] if data.recipe_changed else []
    causes += [describe(one) for one in data.signals if one.fired]
    aside = [drifting] if drifting else []
    if causes or (trigger and data.learnable):
        return Action.RETRAIN, "; ".join(causes + aside)
    if trigger:
        return Action.LABEL, "; ".join([*aside, NOTHING_NEW])
    one = data.changes
    if moved := one.new + one.changed + one.gone:
        words = f"{moved} passages changed ({one.new} new, {one.changed} changed, {one.gone} gone)"
        return Action.REFRESH, "; ".join([words, *aside])
    if data.same:
        return Action.SKIP, "; ".join(
            ["passages, queries, qrels and settings are those of the serving release", *aside]
        )
    return Action.SKIP, "; ".join(aside or ["no passage changed, and too few new queries and pairs to act on"])


def _signal(name: str, value: float, threshold: float) -> Signal:
    return Signal(name=name, value=value, threshold=threshold, fired=value > threshold)


def _recall_signal(one: Measurement, settings: DriftSettings) -> Signal:
    least = recall_threshold(one, settings)
    return Signal(name="recall@10", value=one.recall, threshold=least, fired=one.recall < least)


def _new_pairs(old: Snapshot, new: Snapshot) -> float:
    before, now = (
        set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
        for table in (qrels(old, "train"), qrels(new, "train"))
    )
    return len(now - before) / max(1, len(before))
