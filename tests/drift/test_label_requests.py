"""Drift that no retrain can fix requests labels; a check with `remember=False` writes nothing."""

from __future__ import annotations

import csv
import json
from datetime import timedelta
from pathlib import Path

from traffic import NIGHT, THINGS, check_drift, log_queries, unfamiliar

from tasks.core.base.receipts import Release, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.drift.findings import Action, Shortfall
from tasks.core.drift.watch import watch
from tasks.core.ingest.ingest import ingest
from tasks.core.report.night import recipe_of


def test_drift_without_new_qrels_requests_labels_once_and_new_labels_start_the_retrain(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    log_queries(logged, *unfamiliar(0))
    first = check_drift(logged, serving, snapshot, 0)
    assert (first.verdict, first.unfamiliar_file) == (Action.SKIP, None)
    log_queries(logged, *unfamiliar(1))
    second = check_drift(logged, serving, snapshot, 1)
    assert (second.verdict, second.trigger) == (Action.LABEL, False)
    assert "add them to the train queries" in second.cause
    assert second.unfamiliar_file is not None
    listed = [json.loads(line) for line in second.unfamiliar_file.read_text().splitlines()]
    assert [line["query"] for line in listed][:20] == list(second.unfamiliar)
    assert len(second.unfamiliar) == 20 < len(listed) <= 30
    assert [line["score"] for line in listed] == sorted(line["score"] for line in listed)
    assert set(second.unfamiliar) <= set(unfamiliar(1))
    assert second.topics
    assert {query for topic in second.topics for query in topic.examples} <= set(unfamiliar(1))
    assert {topic.shortfall for topic in second.topics} == {Shortfall.MISSING}
    assert all(passage.text for topic in second.topics for passage in topic.passages)
    assert second.label_file is not None
    rows = list(csv.DictReader(second.label_file.open(), delimiter="\t"))
    requested = {row["query-id"]: row["query"] for row in rows}
    assert len(requested) == 20
    queries = second.label_file.with_suffix(".jsonl").read_text().splitlines()
    assert {line["_id"]: line["text"] for line in map(json.loads, queries)} == requested
    assert any(str(second.label_file) in step for step in second.advice)
    assert check_drift(logged, serving, snapshot, 2).verdict is Action.SKIP  # labels are requested once

    assert logged.data.path is not None
    source = Path(logged.data.path)
    with (source / "queries.jsonl").open("a") as queries, (source / "qrels/train.tsv").open("a") as qrels:
        queries.write(json.dumps({"_id": "labeled", "text": second.unfamiliar[0]}) + "\n")
        qrels.write("labeled\tp3\t1\n")
    settings = logged.drift.model_copy(update={"retrain_pairs": 0.5})  # a single new pair suffices for a retrain
    settings = logged.model_copy(update={"drift": settings})
    labeled = check_drift(settings, serving, ingest(logged)[1], 3)
    assert (labeled.verdict, labeled.trigger) == (Action.RETRAIN, True)
    assert "requested labels arrived" in labeled.cause
    assert check_drift(settings, serving, ingest(logged)[1], 4).verdict is Action.SKIP


def test_a_check_without_remember_reads_the_log_and_writes_nothing(
    logged: Settings, serving: Release, snapshot: Snapshot
) -> None:
    def files() -> dict[Path, bytes]:
        return {file: file.read_bytes() for file in (logged.home / "drift").glob("*.json*")}

    for night in range(2):
        log_queries(logged, *unfamiliar(night))
        before = files()
        drift = watch(logged, serving, snapshot, recipe_of(logged), NIGHT + timedelta(days=night), remember=False)
        assert files() == before
        if drift.verdict is Action.LABEL:
            now = NIGHT + timedelta(days=night)
            assert watch(logged, serving, snapshot, recipe_of(logged), now, unless=Action.LABEL).topics == drift.topics
            assert files() == before
        assert drift == check_drift(logged, serving, snapshot, night).model_copy(
            update={"unfamiliar_file": drift.unfamiliar_file, "label_file": None, "advice": ()}
        )
    assert drift.verdict is Action.LABEL
    assert drift.fresh == {"snapshot": 0, "log": 30}


def test_moved_terms_exclude_stop_words(logged: Settings, serving: Release, snapshot: Snapshot) -> None:
    log_queries(logged, *unfamiliar(5))
    terms = {term.term for term in check_drift(logged, serving, snapshot, 0).terms}
    assert terms & set(THINGS)
    assert not terms & {"of", "where", "was", "the", "a"}
