"""Labels of a language model over real HTTP, and their agreement with labels of people."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from chat_server import chat_server
from small_snapshot import snapshot_of

from tasks.core.base.sections.synthetic import GenerateSettings
from tasks.core.synthesis.judge import (
    Agreement,
    JudgePair,
    compare_labels,
    judge_pairs,
    judge_prompts,
    positives_of_people,
    write_labels,
)

PASSAGES = {"a": "owls hunt at night", "b": "larks sing at dawn"}


def test_a_model_labels_pairs_and_people_outrank_it(tmp_path: Path) -> None:
    labeled = snapshot_of(
        tmp_path, PASSAGES, {"q": "who does hunt", "x": "other"}, [("q", "a", "test"), ("x", "b", "train")]
    )
    queries = ["who does hunt", "birds that sing", "birds that swim"]
    people, positives = positives_of_people(labeled, queries)
    assert people == {"who does hunt": {"a"}}
    assert positives == [JudgePair("who does hunt", "a", "", PASSAGES["a"])]
    pairs = [JudgePair(query, name, "", text) for query in queries for name, text in PASSAGES.items()]
    with chat_server() as chat:
        settings = GenerateSettings(url=chat.url, model="judge", budget=10)
        labels = judge_pairs(tmp_path, judge_prompts([*pairs, *positives], settings), settings)
    assert [(pair.query, pair.passage_id) for pair, relevant in labels.items() if relevant] == [
        ("who does hunt", "a"),
        ("birds that sing", "b"),
    ]
    agreement = compare_labels(labels, people)
    assert agreement == Agreement(both=1, people=0, model=0, neither=1)
    assert write_labels(tmp_path / "labels", labels, people, agreement) == 1
    (query,) = map(json.loads, (tmp_path / "labels" / "queries.jsonl").read_text().splitlines())
    assert query["text"] == "birds that sing"
    rows = (tmp_path / "labels" / "qrels" / "test.tsv").read_text().splitlines()
    assert sorted(rows[1:]) == [f"{query['_id']}\ta\t0", f"{query['_id']}\tb\t1"]
    assert json.loads((tmp_path / "labels" / "agreement.json").read_text())["kappa"] == 1


def test_kappa_corrects_for_chance() -> None:
    # Cohen's example form: p = 0.7, and e = 0.5 * 0.6 + 0.5 * 0.4 = 0.5.
    assert Agreement(both=20, people=5, model=10, neither=15).kappa == pytest.approx(0.4)
    assert Agreement(both=0, people=0, model=0, neither=9).kappa is None
