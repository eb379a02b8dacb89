"""The margin filter trusts the encoder only where it ranks known positives at least as well as BM25."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from mining_world import World

from tasks.core.base.mining_checks import MIN_QUERIES, MarginCheck
from tasks.core.base.sections.mining import Shares


def ranked(queries: int, positive_at: int) -> tuple[Any, ...]:
    """Return the first arguments of `World.mine`: each query has its positive at this rank, among five candidates.

    The encoder ranks the positives third: it scores the negatives a and b higher.
    """
    names = [f"q{number:02d}" for number in range(queries)]
    passages = {f"{name}+": f"answer {name}" for name in names} | {name: f"other {name}" for name in "abcd"}
    hits = {}
    for name in names:
        hits[name] = ["a", "c", "b", "d"]
        hits[name].insert(positive_at - 1, f"{name}+")
    qrels = [(name, f"{name}+", "train") for name in names]
    scores = {f"{name}+": 1.0 for name in names} | {"a": 3.0, "b": 2.0, "c": 0.5, "d": 0.1}
    return passages, {name: f"question {name}" for name in names}, qrels, {"bm25": hits}, scores


def test_an_encoder_that_ranks_worse_than_bm25_refuses_no_candidate(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "nightshift.mining"):
        receipt, rows = world.mine(*ranked(MIN_QUERIES, positive_at=1))
    assert receipt.margin_check is not None
    assert receipt.margin_check.bm25 == 1.0
    assert receipt.margin_check.encoder == pytest.approx(1 / 3)
    assert receipt.refused["above_margin"] == 0
    assert [row["passage_id"] for row in rows[:3]] == ["a", "c", "b"]
    assert rows[0]["trail"]["above_margin"] == 3.0  # still measured, for the report
    assert any("the margin filter was off" in message for message in caplog.messages)


def test_an_encoder_that_ranks_better_refuses_candidates_above_the_positive(world: World) -> None:
    receipt, rows = world.mine(*ranked(MIN_QUERIES, positive_at=5))
    assert receipt.margin_check is not None
    assert receipt.margin_check.applies
    assert receipt.refused["above_margin"] == 2 * MIN_QUERIES
    assert {row["passage_id"] for row in rows} == {"c", "d"}


def test_with_few_queries_the_margin_applies(world: World) -> None:
    receipt, rows = world.mine(*ranked(MIN_QUERIES - 1, positive_at=1))
    assert receipt.margin_check is not None
    assert receipt.margin_check.encoder < receipt.margin_check.bm25
    assert {row["passage_id"] for row in rows} == {"c", "d"}


def test_positives_that_bm25_does_not_return_are_not_compared(world: World) -> None:
    passages, queries, qrels, runs, scores = ranked(MIN_QUERIES, positive_at=1)
    runs["bm25"] = {name: hits[1:] for name, hits in runs["bm25"].items()}
    receipt, _ = world.mine(passages, queries, qrels, runs, scores)
    assert receipt.margin_check == MarginCheck(queries=0, bm25=0.0, encoder=0.0)
    assert receipt.refused["above_margin"] == 2 * MIN_QUERIES


def test_without_bm25_the_encoder_is_not_compared(world: World) -> None:
    passages, queries, qrels, runs, scores = ranked(MIN_QUERIES, positive_at=1)
    shares = Shares(dense=1.0)
    receipt, _ = world.mine(passages, queries, qrels, {"dense": runs["bm25"]}, scores, shares=shares)
    assert receipt.margin_check is None
    assert receipt.refused["above_margin"] == 2 * MIN_QUERIES
