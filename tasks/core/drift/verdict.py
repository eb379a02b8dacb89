"""What a night has to do: the least work that is enough, decided from what changed since the serving release."""

from __future__ import annotations

import math
from enum import StrEnum
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from tasks.core.data.snapshot import compare, load_snapshot, qrels, queries
from tasks.core.drift.statistics import LOW, best_scores, build_reference, unseen_share
from tasks.core.files import load
from tasks.core.receipts import Embeddings, Encoder, Release, Snapshot
from tasks.core.settings import DriftSettings


class Work(StrEnum):
    """The least work that is enough."""

    SKIP = "skip"  # nothing changed
    REFRESH = "refresh"  # embed the changed passages with the serving encoder
    RETRAIN = "retrain"  # mine and train
    SUSPECT = "suspect"  # the input looks broken: touch nothing, ask a person


class Signal(BaseModel):
    """One measured reason to act; it fired when its value passed its threshold."""

    model_config = ConfigDict(frozen=True)

    name: str
    value: float
    threshold: float
    fired: bool


class Changes(BaseModel):
    """Passages that are new, changed and gone since the serving snapshot."""

    model_config = ConfigDict(frozen=True)

    new: int = 0
    changed: int = 0
    gone: int = 0


class Drift(BaseModel):
    """The verdict, with its cause in words and every signal behind it."""

    model_config = ConfigDict(frozen=True)

    verdict: Work
    cause: str
    signals: tuple[Signal, ...] = ()
    passages: Changes = Changes()


def assess(home: Path, serving: Release | None, snapshot: Snapshot, recipe: str, settings: DriftSettings) -> Drift:
    """Compare a snapshot with the serving release and say what has to be done.

    Args:
        home: where the serving release's artifacts lie.
        serving: the release that the pointer names, None before the first.
        snapshot: the source as it is now.
        recipe: digest of the settings that shape an encoder.
        settings: the thresholds.
    """
    if serving is None:
        return Drift(verdict=Work.RETRAIN, cause="no release serves yet", passages=Changes(new=snapshot.rows))
    if serving.snapshot == snapshot.digest and serving.recipe == recipe:
        return Drift(verdict=Work.SKIP, cause="passages, queries, qrels and settings are those of the serving release")
    old = load_snapshot(home, serving.snapshot)
    counts = compare(old, snapshot)
    changes = Changes(new=counts.new, changed=counts.changed, gone=counts.gone)
    signals = [
        _signal("new_and_changed_passages", (counts.new + counts.changed) / old.rows, settings.retrain_passages),
        _signal("new_training_pairs", _new_pairs(old, snapshot), settings.retrain_pairs),
        *_query_signals(home, serving, old, snapshot, settings),
    ]
    verdict, cause = _decide(signals, changes, recipe_changed=serving.recipe != recipe)
    return Drift(verdict=verdict, cause=cause, signals=tuple(signals), passages=changes)


def _decide(signals: list[Signal], changes: Changes, *, recipe_changed: bool) -> tuple[Work, str]:
    fired = {signal.name: signal for signal in signals if signal.fired}
    words = "; ".join(f"{name.replace('_', ' ')} {one.value:.3f} > {one.threshold:.3f}" for name, one in fired.items())
    if "unseen_terms" in fired:
        return (
            Work.SUSPECT,
            f"{words}: new queries hold many words seen nowhere before; look at the feed before training",
        )
    if recipe_changed:
        return Work.RETRAIN, "the settings that shape an encoder changed" + (f"; {words}" if words else "")
    if fired:
        return Work.RETRAIN, words
    moved = changes.new + changes.changed + changes.gone
    if moved:
        return (
            Work.REFRESH,
            f"{moved} passages changed ({changes.new} new, {changes.changed} changed, {changes.gone} gone)",
        )
    return Work.SKIP, "no passage changed, and too few new queries and pairs to act on"


def _signal(name: str, value: float, threshold: float) -> Signal:
    return Signal(name=name, value=value, threshold=threshold, fired=value > threshold)


def _new_pairs(old: Snapshot, new: Snapshot) -> float:
    before, now = (
        set(zip(table["query_id"].to_pylist(), table["passage_id"].to_pylist(), strict=True))
        for table in (qrels(old, "train"), qrels(new, "train"))
    )
    return len(now - before) / max(1, len(before))


def _query_signals(home: Path, serving: Release, old: Snapshot, new: Snapshot, settings: DriftSettings) -> list[Signal]:
    """Low-score share and unseen terms of the queries that the serving snapshot does not have."""
    before = set(queries(old)["text"].to_pylist())
    fresh = [text for text in queries(new)["text"].to_pylist() if text not in before]
    if len(fresh) < settings.min_queries:
        return []
    encoder, embeddings = load(home, Encoder, serving.encoder), load(home, Embeddings, serving.embeddings)
    reference = build_reference(home, encoder, embeddings, old)
    low = float((best_scores(encoder, embeddings, fresh) < reference.low_score).mean())
    # Three standard deviations of a share of LOW at this sample size: ordinary wobble stays below it.
    wobble = 3 * math.sqrt(LOW * (1 - LOW) / len(fresh))
    return [
        _signal("low_score_share", low, LOW + max(wobble, settings.low_score_effect)),
        _signal("unseen_terms", unseen_share(fresh, new, before), reference.unseen_terms + settings.unseen_terms),
    ]
