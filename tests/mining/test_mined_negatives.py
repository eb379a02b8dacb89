"""Each mining filter on a small example."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest
from mining_world import random_world

from tasks.core.base.errors import Mismatch

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"  # 10 shingles


def passages(rows):
    return [row["passage_id"] for row in rows]


def texts(*names):
    return {name: f"text of {name}" for name in names}


def test_a_known_positive_of_any_split_is_never_a_negative(world):
    qrels = [("q", "train+", "train"), ("q", "test+", "test")]
    receipt, rows = world.mine(
        texts("train+", "test+", "n"), {"q": "?"}, qrels, {"bm25": {"q": ["train+", "test+", "n"]}},
        {"train+": 1.0, "test+": 1.0},
    )  # fmt: skip
    assert passages(rows) == ["n"]
    assert receipt.refused["known_positive"] == 2


def test_a_positive_of_an_equally_worded_query_is_never_a_negative(world):
    qrels = [("other", "n", "test"), ("q", "+", "train"), ("twin", "twin+", "test")]
    _, rows = world.mine(
        texts("+", "twin+", "n"), {"other": "other?", "q": "same?", "twin": "same?"}, qrels,
        {"bm25": {"q": ["twin+", "n"]}}, {"+": 1.0, "twin+": 1.0},
    )  # fmt: skip
    assert passages(rows) == ["n"]


def test_the_text_of_a_positive_or_of_the_query_is_never_a_negative(world):
    receipt, rows = world.mine(
        {"+": "answer", "copy": "answer", "echo": "what is it?", "n": "other"}, {"q": "what is it?"},
        [("q", "+", "train")], {"bm25": {"q": ["copy", "echo", "n"]}}, {"+": 1.0},
    )  # fmt: skip
    assert passages(rows) == ["n"]
    assert receipt.refused["text_of_positive"] == receipt.refused["text_of_query"] == 1


def test_a_near_duplicate_of_a_positive_is_never_a_negative(world):
    receipt, rows = world.mine(
        {"+": LONG, "near": LONG.upper() + " fifteen sixteen", "far": LONG + " a b c"}, {"q": "?"},
        [("q", "+", "train")], {"bm25": {"q": ["near", "far"]}}, {"+": 1.0},
    )  # fmt: skip
    assert passages(rows) == ["far"]  # 10 / 13 shingles in common; near has 10 / 12
    assert receipt.refused["near_duplicate"] == 1


def test_a_candidate_above_the_margin_of_the_lowest_positive_is_never_a_negative(world):
    scores = {"high+": 2.0, "low+": 1.0, "above": 0.96, "below": 0.94}
    receipt, rows = world.mine(
        texts(*scores), {"q": "?"}, [("q", "high+", "train"), ("q", "low+", "dev")],
        {"bm25": {"q": ["above", "below"]}}, scores,
    )  # fmt: skip
    assert passages(rows) == ["below"]
    assert rows[0]["dense_score"] == pytest.approx(0.94)
    assert receipt.refused["above_margin"] == 1


def test_the_margin_is_right_for_a_negative_positive_score(world):
    scores = {"+": -1.0, "above": -1.04, "below": -1.06}  # the threshold is -1.05
    _, rows = world.mine(texts(*scores), {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["above", "below"]}}, scores)
    assert passages(rows) == ["below"]


def test_the_head_of_a_run_can_be_skipped(world):
    receipt, rows = world.mine(
        texts("+", "a", "b", "c"), {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["a", "b", "c"]}}, {"+": 1.0},
        skip_top=2,
    )  # fmt: skip
    assert passages(rows) == ["c"]
    assert rows[0]["rank"] == 3
    assert receipt.refused["rank_window"] == 2


def test_a_query_with_only_refused_candidates_gets_no_negatives(world):
    receipt, rows = world.mine(
        texts("+", "a", "b", "n"), {"q": "?", "r": "??"}, [("q", "+", "train"), ("r", "+", "train")],
        {"bm25": {"q": ["a", "b", "+"], "r": ["n"]}}, {"+": 1.0, "a": 2.0, "b": 1.0},
    )  # fmt: skip
    assert [(row["query_id"], row["passage_id"]) for row in rows] == [("r", "n")]
    assert (receipt.queries, receipt.starved, receipt.candidates) == (2, 2, 4)


def test_a_passage_with_the_id_of_the_query_can_be_a_negative(world):
    _, rows = world.mine(texts("+", "q"), {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["q"]}}, {"+": 1.0})
    assert passages(rows) == ["q"]


def test_sources_take_turns_hardest_first_and_equal_texts_come_once(world):
    receipt, rows = world.mine(
        {**texts("+", "a", "b", "c", "d", "x"), "copy of a": "text of a"}, {"q": "?"}, [("q", "+", "train")],
        {"bm25": {"q": ["a", "b", "c"]}, "dense": {"q": ["x", "copy of a", "b", "d"]}}, {"+": 1.0}, per_query=5,
    )  # fmt: skip
    assert [(row["source"], row["rank"], row["passage_id"]) for row in rows] == [
        ("bm25", 1, "a"),
        ("dense", 1, "x"),
        ("bm25", 2, "b"),
        ("dense", 4, "d"),
        ("bm25", 3, "c"),
    ]
    assert receipt.refused["repeated"] == 2
    assert {row["round"] for row in rows} == {1}
    assert receipt.starved == 0


def test_queries_of_other_splits_get_no_negatives(world):
    receipt, rows = world.mine(
        texts("+", "n"), {"q": "?", "t": "??"}, [("q", "+", "train"), ("t", "+", "test")],
        {"bm25": {"q": ["n"], "t": ["n"]}}, {"+": 1.0},
    )  # fmt: skip
    assert [row["query_id"] for row in rows] == ["q"]
    assert receipt.candidates == 1


def test_no_positive_by_id_or_text_passes_and_every_candidate_is_counted(world):
    bodies, wordings, qrels, runs, scores = random_world()
    receipt, rows = world.mine(bodies, wordings, qrels, runs, scores, per_query=1000)
    forbidden: dict[str, set[str]] = {}
    lowest: dict[str, float] = {}
    for query, passage, _ in qrels:
        wording = wordings[query]
        forbidden.setdefault(wording, set()).add(bodies[passage])
        lowest[wording] = min(lowest.get(wording, np.inf), scores[passage])
    assert rows
    for row in rows:
        wording = wordings[row["query_id"]]
        assert bodies[row["passage_id"]] not in forbidden[wording]
        assert scores[row["passage_id"]] <= lowest[wording] - 0.05 * abs(lowest[wording]) + 1e-6
    assert receipt.candidates == receipt.rows + sum(receipt.refused.values()) == 2 * 30 * 30
    kept = [(row["query_id"], bodies[row["passage_id"]]) for row in rows]
    assert len(kept) == len(set(kept))
    assert all(first["query_id"] <= second["query_id"] for first, second in pairwise(rows))


def test_equal_inputs_give_equal_bytes(world):
    receipts = [world.mine(*random_world())[0] for _ in range(2)]
    for name in ("negatives.parquet", "sample.json"):
        assert (receipts[0].path / name).read_bytes() == (receipts[1].path / name).read_bytes()
    assert sorted(file.name for file in receipts[0].path.iterdir()) == [
        "checksums.json",
        "manifest.json",
        "negatives.parquet",
        "sample.json",
    ]


def test_the_sample_shows_texts_scores_and_reasons(world):
    receipt, _ = world.mine(
        texts("+", "n", "above"), {"q": "what?"}, [("q", "+", "train")], {"bm25": {"q": ["+", "above", "n"]}},
        {"+": 1.0, "above": 2.0},
    )  # fmt: skip
    (sample,) = json.loads((receipt.path / "sample.json").read_text())
    assert (sample["query"], sample["positives"][0]["text"]) == ("what?", "text of +")
    assert [(entry["text"], entry["rank"]) for entry in sample["negatives"]] == [("text of n", 3)]
    assert [(entry["passage_id"], entry["reason"]) for entry in sample["refused"]] == [
        ("+", "known_positive"),
        ("above", "above_margin"),
    ]


def test_inputs_that_do_not_match_are_refused(world):
    with pytest.raises(Mismatch, match="'stranger'"):
        world.mine(texts("+"), {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["stranger"]}})
    with pytest.raises(Mismatch, match="2 query vectors for 1"):
        world.mine(
            texts("+"), {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": []}}, vectors=np.zeros((2, 2), np.float32)
        )
