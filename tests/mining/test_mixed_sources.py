"""Sources of negatives: BM25 in the first round, then shares, turns, and random draws."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from pydantic import ValidationError

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.mining import MiningSettings, Shares
from tasks.core.mining.mine import source_shares
from tasks.core.mining.random_draws import draw_random_candidates


def named(prefix, count):
    return {f"{prefix}{number:02d}": f"text {prefix} {number}" for number in range(count)}


def by_source(rows):
    return Counter(row["source"] for row in rows)


def test_the_first_round_is_bm25_and_later_ones_follow_the_shares(world):
    mining = MiningSettings(shares=Shares(bm25=0.3, random=0.7))
    assert source_shares(0, mining) == {"bm25": 1.0}
    assert source_shares(1, mining) == source_shares(7, mining) == {"bm25": 0.3, "random": 0.7}
    runs = {"bm25": {"q": ["b00"]}, "dense": {"q": ["d00"]}}
    _, rows = world.mine(
        {"+": "answer", **named("b", 1), **named("d", 1)}, {"q": "?"}, [("q", "+", "train")], runs, {"+": 1.0},
        round_number=0,
    )  # fmt: skip
    assert [(row["source"], row["round"]) for row in rows] == [("bm25", 0)]


def test_places_are_divided_by_the_shares(world):
    passages = {"+": "answer", **named("b", 20), **named("d", 20), **named("x", 4000)}
    runs = {"bm25": {"q": list(named("b", 20))}, "dense": {"q": list(named("d", 20))}}
    receipt, rows = world.mine(
        passages, {"q": "?"}, [("q", "+", "train")], runs, {"+": 1.0}, per_query=10,
        shares=Shares(bm25=0.5, dense=0.3, random=0.2),
    )  # fmt: skip
    assert by_source(rows) == receipt.sources == {"bm25": 5, "dense": 3, "random": 2}
    # turns at (n - 1/2) / share: 1, 3, 5, 7, 9 for BM25, 1.67, 5, 8.33 for dense, 2.5, 7.5 for random
    turns = ["bm25", "dense", "random", "bm25", "bm25", "dense", "bm25", "random", "dense", "bm25"]
    assert [row["source"] for row in rows] == turns
    assert [row["rank"] for row in rows if row["source"] == "bm25"] == [1, 2, 3, 4, 5]
    assert all(row["score"] is None for row in rows if row["source"] == "random")


def test_an_exhausted_source_leaves_its_places_to_the_other_sources(world):
    passages = {"+": "answer", **named("b", 20), "d00": "text d"}
    runs = {"bm25": {"q": list(named("b", 20))}, "dense": {"q": ["d00", "+"]}}
    _, rows = world.mine(passages, {"q": "?"}, [("q", "+", "train")], runs, {"+": 1.0}, per_query=10)
    assert by_source(rows) == {"bm25": 9, "dense": 1}


def test_a_passage_of_two_sources_uses_only_one_place(world):
    passages = {"+": "answer", **named("b", 6)}
    ids = list(named("b", 6))
    runs = {"bm25": {"q": ids[:3]}, "dense": {"q": [ids[0], ids[3], ids[4]]}}
    receipt, rows = world.mine(passages, {"q": "?"}, [("q", "+", "train")], runs, {"+": 1.0}, per_query=4)
    assert [row["passage_id"] for row in rows] == [ids[0], ids[3], ids[1], ids[4]]
    assert receipt.refused["repeated"] == 1


def test_random_negatives_pass_the_same_rules_and_have_a_dense_score(world):
    passages = {"+": "answer", "copy": "answer", "near": "close by", "n": "far off"}
    scores = {"+": 1.0, "copy": 1.0, "near": 0.99, "n": 0.25}
    receipt, rows = world.mine(
        passages, {f"q{number}": f"{number}?" for number in range(20)},
        [(f"q{number}", "+", "train") for number in range(20)], {}, scores, per_query=30, shares=Shares(random=1),
    )  # fmt: skip
    assert {row["passage_id"] for row in rows} == {"n"}
    assert {row["dense_score"] for row in rows} == {0.25}
    assert receipt.candidates == 20 * 30 == receipt.rows + sum(receipt.refused.values())
    assert min(receipt.refused[rule] for rule in ("known_positive", "text_of_positive", "above_margin")) > 0


def test_the_rank_window_does_not_apply_to_random_negatives(world):
    passages = {"+": "answer", **named("x", 500)}
    _, rows = world.mine(
        passages, {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["x00", "x01", "x02"]}}, {"+": 1.0}, per_query=9,
        shares=Shares(bm25=0.5, random=0.5), skip_top=1, last_rank=2,
    )  # fmt: skip
    assert [row["rank"] for row in rows if row["source"] == "bm25"] == [2]
    assert [row["rank"] for row in rows if row["source"] == "random"] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_a_draw_depends_only_on_seed_and_query_and_is_uniform():
    names = [f"q{number}" for number in range(3000)]
    all_ = draw_random_candidates(names, 0, 10, 50, seed=1, source=0)
    np.testing.assert_array_equal(
        all_.passage[20:40], draw_random_candidates(names[2:4], 2, 10, 50, seed=1, source=0).passage
    )
    assert (all_.passage != draw_random_candidates(names, 0, 10, 50, seed=2, source=0).passage).mean() > 0.9
    counts = np.bincount(all_.passage, minlength=50)  # 30,000 draws, 600 a passage, standard deviation 24.2
    assert counts.sum() == 30_000
    assert abs(counts - 600).max() < 4.5 * 24.2


def test_shares_that_do_not_add_up_and_unknown_sources_are_refused(world):
    with pytest.raises(ValidationError, match="add up to"):
        Shares(bm25=0.5, dense=0.4)
    with pytest.raises(ValidationError, match="leaves no rank"):
        MiningSettings(skip_top=5, last_rank=5)
    with pytest.raises(Mismatch, match="splade"):
        world.mine({"+": "answer"}, {"q": "?"}, [("q", "+", "train")], {"splade": {"q": ["+"]}})
