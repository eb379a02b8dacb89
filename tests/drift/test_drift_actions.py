from __future__ import annotations

import json
from datetime import UTC, datetime

from traffic import append

from tasks.core.base.receipts import Release
from tasks.core.base.resolved_settings import resolve
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Drift
from tasks.core.drift.verdict import untrained_changes
from tasks.core.drift.watch import watch
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of


def now(settings: Settings, serving: Release | None) -> Drift:
    snapshot = ingest(settings)[1]
    return watch(settings, serving, snapshot, recipe_of(settings), datetime.now(UTC), remember=False)


def new_queries(settings: Settings, texts: list[str]) -> None:
    """Add queries to the test split, where they are traffic and not training pairs."""
    append(settings, "queries.jsonl", *(json.dumps({"_id": f"n{n}", "text": text}) for n, text in enumerate(texts)))
    append(settings, "qrels/test.tsv", *(f"n{n}\tp{n}\t1" for n in range(len(texts))))


def test_the_first_night_trains(settings: Settings) -> None:
    assert now(settings, None).verdict is Action.RETRAIN


def test_an_unchanged_source_is_skipped(settings: Settings, serving: Release) -> None:
    assert now(settings, serving).verdict is Action.SKIP


def test_a_few_changed_passages_need_a_refresh(settings: Settings, serving: Release) -> None:
    append(settings, "corpus.jsonl", json.dumps({"_id": "new", "text": "a silent market"}))
    drift = now(settings, serving)
    assert drift.verdict is Action.REFRESH
    assert drift.passages.model_dump() == {"new": 1, "changed": 0, "gone": 0}


def test_new_training_pairs_need_a_retrain(settings: Settings, serving: Release) -> None:
    append(settings, "qrels/train.tsv", "q0\tp1\t1", "q1\tp2\t1")
    drift = now(settings, serving)
    assert drift.verdict is Action.RETRAIN
    assert [signal.name for signal in drift.signals if signal.fired] == ["new_training_pairs"]
    assert {signal.name: signal.value for signal in drift.signals}["new_training_pairs"] == 2 / 36


def test_changed_settings_need_a_retrain_and_are_named(settings: Settings, serving: Release) -> None:
    serving = serving.model_copy(update={"settings": resolve(settings)})
    training = settings.training.model_copy(update={"learning_rate": 2e-3, "processes": 3})
    drift = now(settings.model_copy(update={"training": training}), serving)
    assert drift.verdict is Action.RETRAIN
    assert drift.cause.startswith("the settings that shape an encoder changed: training.learning_rate from ")
    assert "processes" not in drift.cause


def test_changes_add_up_over_refreshes_until_the_next_training(settings: Settings, serving: Release) -> None:
    append(settings, "qrels/train.tsv", "q0\tp1\t1")
    append(settings, "corpus.jsonl", json.dumps({"_id": "new", "text": "a silent market"}))
    patient = settings.model_copy(update={"drift": settings.drift.model_copy(update={"retrain_pairs": 0.05})})
    first = now(patient, serving)
    assert first.verdict is Action.REFRESH
    refreshed = serving.model_copy(update={"since_training": untrained_changes(first)})
    assert set(refreshed.since_training) == {"new_and_changed_passages", "new_training_pairs"}
    second = now(patient, refreshed)  # as if the next night brought the same number of rows
    assert second.verdict is Action.RETRAIN
    assert [signal.name for signal in second.signals if signal.fired] == ["new_training_pairs"]
    assert {signal.name: signal.value for signal in second.signals}["new_training_pairs"] == 2 / 36


def test_other_training_settings_need_a_retrain(settings: Settings, serving: Release) -> None:
    training = settings.training.model_copy(update={"epochs": 7.0})
    drift = now(settings.model_copy(update={"training": training}), serving)
    assert drift.verdict is Action.RETRAIN
    assert "an earlier version did not record them" in drift.cause  # this release has no settings


def test_many_unseen_terms_are_suspect_and_never_retrain(settings: Settings, serving: Release) -> None:
    new_queries(settings, [f"whree wsa hte brkoen riverr {n} sene" for n in range(30)])
    append(settings, "qrels/train.tsv", "q0\tp1\t1", "q1\tp2\t1")
    assert now(settings, serving).verdict is Action.SUSPECT


def test_too_few_new_queries_are_not_measured(settings: Settings, serving: Release) -> None:
    new_queries(settings, ["whree wsa hte riverr"] * 5)
    assert {signal.name for signal in now(settings, serving).signals} == {
        "new_and_changed_passages",
        "new_training_pairs",
    }


def test_familiar_queries_do_not_fire(settings: Settings, serving: Release) -> None:
    things = ["river", "castle", "violin", "engine", "orchid", "glacier", "market", "lantern", "falcon", "harbour"]
    new_queries(settings, [f"where was the {thing} near the {other} seen" for thing in things for other in things[:3]])
    drift = now(settings, serving)
    assert {signal.name: signal.fired for signal in drift.signals}["unseen_terms"] is False
