"""What mining reports about a round: trails, counts, churn, and how many hidden positives pass the filters."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path

import pytest
from mining_world import random_world

from tasks.core.base.files import produce
from tasks.core.base.receipts import Encoder, Release
from tasks.core.mining.churn import churn
from tasks.core.mining.false_negative_estimate import summarize_hidden
from tasks.core.report.night import Night
from tasks.core.report.page import write_report
from tasks.core.report.sentences import describe_negatives

LONG = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"  # 10 shingles


def test_a_negative_records_the_measurements_of_the_filters(world):
    passages = {"+": LONG, "second+": "else", "n": LONG + " a b c d e f", "far": "other", "below": "again"}
    scores = {"+": 1.0, "second+": 0.5, "n": 0.25, "far": 0.4, "below": -0.5}
    receipt, rows = world.mine(
        passages, {"q": "?"}, [("q", "+", "train"), ("q", "second+", "test")],
        {"bm25": {"q": ["n", "far", "below"]}}, scores,
    )  # fmt: skip
    trails = {row["passage_id"]: row["trail"] for row in rows}
    assert trails["n"]["near_duplicate"] == pytest.approx(10 / 16)  # of the nearest positive
    assert trails["far"]["near_duplicate"] == 0
    assert [trails[name]["above_margin"] for name in ("n", "far", "below")] == pytest.approx([1 / 2, 4 / 5, -1])
    assert {trail["cross_encoder"] for trail in trails.values()} == {None}  # no cross-encoder is set
    (sample,) = json.loads((receipt.path / "sample.json").read_text())
    assert sample["negatives"][0]["trail"] == pytest.approx(trails["n"])


@pytest.mark.parametrize(("over", "kept"), [("min", ["low"]), ("mean", ["low", "high"])])
def test_the_margin_is_relative_to_the_lowest_positive_or_to_their_mean(world, over, kept):
    scores = {"a+": 1.0, "b+": 0.5, "low": 0.47, "high": 0.71, "above": 0.72}  # 0.95 · 0.5 and 0.95 · 0.75 = 0.7125
    _, rows = world.mine(
        {name: name for name in scores}, {"q": "?"}, [("q", "a+", "train"), ("q", "b+", "train")],
        {"bm25": {"q": ["low", "high", "above"]}}, scores, margin_over=over,
    )  # fmt: skip
    assert [row["passage_id"] for row in rows] == kept


def test_candidates_outside_the_rank_window_are_refused(world):
    receipt, rows = world.mine(
        {name: name for name in ("+", "a", "b", "c")}, {"q": "?"}, [("q", "+", "train")],
        {"bm25": {"q": ["a", "b", "c"]}}, {"+": 1.0}, skip_top=1, last_rank=2,
    )  # fmt: skip
    assert [row["passage_id"] for row in rows] == ["b"]
    assert receipt.refused["rank_window"] == 2


def test_each_positive_is_hidden_and_counted_if_it_passes(world):
    # q: a and b are candidates; b passes when hidden because it scores lower than a. c is no candidate.
    # r: d and e are candidates; each is refused as a near duplicate of the other.
    # s: a single positive is never hidden.
    passages = {"a": "ay", "b": "bee", "c": "sea", "d": LONG, "e": LONG + " fifteen", "n": "none"}
    scores = {"a": 1.0, "b": 0.5, "c": 0.9, "d": 1.0, "e": 1.0, "n": 0.0}
    pairs = [("q", "a"), ("q", "b"), ("q", "c"), ("r", "d"), ("r", "e"), ("s", "n")]
    receipt, rows = world.mine(
        passages, {"q": "?", "r": "??", "s": "???"}, [(query, passage, "train") for query, passage in pairs],
        {"bm25": {"q": ["a", "b", "n"], "r": ["e", "d"], "s": ["n"]}}, scores,
    )  # fmt: skip
    assert [(row["query_id"], row["passage_id"]) for row in rows] == [("q", "n")]
    hidden = receipt.hidden
    assert (hidden.hidden, hidden.found, hidden.let_through) == (5, 4, 1)
    assert "5 known positives, hidden one at a time, 4 were among the candidates and 1" in " ".join(
        describe_negatives(receipt)
    )


def test_the_interval_is_the_wilson_interval():
    estimate = summarize_hidden(hidden=10, matched=3, let_through=2)
    assert (estimate.low, estimate.high) == (0.0567, 0.5098)  # the tabulated interval for 2 of 10
    assert summarize_hidden(hidden=400, matched=9, let_through=0).low == 0
    assert summarize_hidden(0, 0, 0) is None


def test_without_a_query_with_two_positives_there_is_no_estimate(world):
    receipt, _ = world.mine({"+": "p", "n": "n"}, {"q": "?"}, [("q", "+", "train")], {"bm25": {"q": ["n"]}}, {"+": 1.0})
    assert receipt.hidden is None
    assert "no query has two positives" in " ".join(describe_negatives(receipt))


def test_counts_include_the_share_of_queries_with_too_few_negatives(world):
    receipt, _ = world.mine(
        {name: name for name in ("+", "a", "b", "c")}, {"q": "?", "r": "??"},
        [("q", "+", "train"), ("r", "+", "train")], {"bm25": {"q": ["a", "b", "c"], "r": ["+", "a"]}}, {"+": 1.0},
    )  # fmt: skip
    summary = " ".join(describe_negatives(receipt))
    assert "4 negatives (4 bm25) for 2 queries, from 5 candidates" in summary
    assert "1 queries (50.0%) got fewer negatives than requested" in summary
    assert "(1 refused)" in summary


def encoder(home: Path, name: str, *parents: str) -> Encoder:
    fields = {
        "rows": 1, "parents": parents, "fingerprint": name, "passage_fingerprint": name, "dimension": 2, "base": "b",
        "steps": 1, "precision": "fp32", "fidelity": 1.0,
    }  # fmt: skip
    return produce(home, Encoder, {"name": name}, lambda folder: fields)


def test_churn_counts_pairs_that_the_serving_encoder_did_not_learn_from(world):
    qrels = [("q", "+", "train"), ("r", "+", "train")]
    passages = {name: name for name in ("+", "a", "b", "c")}
    last, now = (
        world.mine(passages, {"q": "?", "r": "??"}, qrels, {"bm25": ranked}, {"+": 1.0})[0]
        for ranked in ({"q": ["a", "b"], "r": ["a"]}, {"q": ["b", "c"], "r": ["b", "a"]})
    )
    home = last.path.parents[1]  # contains the serving encoder and its negatives
    first = encoder(home, "first", last.digest)
    second = encoder(home, "second", first.digest)  # a later round of the same night
    serving = Release.model_construct(encoder=second.digest)
    assert churn(home, now, serving) == 2 / 4  # (q, c) and (r, b)
    assert churn(home, last, serving) == 0
    assert churn(home, now.model_copy(update={"round": 5}), serving) is None
    assert churn(home, now, None) is None
    assert "50.0% of the pairs are new" in " ".join(describe_negatives(now.model_copy(update={"churn": 0.5})))


def test_the_report_shows_25_queries_and_the_audit(world, tmp_path_factory):
    receipt, _ = world.mine(*random_world())
    page = write_report(tmp_path_factory.mktemp("home"), Night.begin("a test").having(negatives=(receipt,))).read_text()
    assert page.count("<summary>question ") == 25  # of 30
    for line in describe_negatives(receipt):
        assert escape(line) in page
