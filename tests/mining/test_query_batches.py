"""Mining processes queries in batches; the batch size does not change the result."""

from __future__ import annotations

import pytest
from mining_world import random_world

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.mining import Shares
from tasks.core.mining import candidates, round

MIXED = {"shares": Shares(bm25=0.4, dense=0.4, random=0.2), "per_query": 7}


@pytest.mark.parametrize(("lines", "at_once"), [(7, 1), (64, 200), (100_000, 500)])
def test_batch_size_changes_no_byte(world, monkeypatch, lines, at_once):
    whole, _ = world.mine(*random_world(), **MIXED)
    monkeypatch.setattr(candidates, "LINES_AT_ONCE", lines)
    monkeypatch.setattr(round, "CANDIDATES_AT_ONCE", at_once)
    cut, rows = world.mine(*random_world(), **MIXED)
    assert rows
    assert {row["source"] for row in rows} == {"bm25", "dense", "random"}
    counts = {"rows", "candidates", "refused", "sources", "starved", "hidden"}
    assert cut.model_dump(include=counts) == whole.model_dump(include=counts)
    assert (cut.path / "sample.json").read_bytes() == (whole.path / "sample.json").read_bytes()
    tables = [world.table(receipt).combine_chunks() for receipt in (cut, whole)]
    assert tables[0].equals(tables[1])


def test_a_run_in_another_order_is_refused(world):
    with pytest.raises(Mismatch, match="order"):
        world.mine(
            {"+": "p", "n": "n"}, {"q": "?", "r": "??"}, [("q", "+", "train"), ("r", "+", "train")],
            {"bm25": {"r": ["n"], "q": ["n"]}}, {"+": 1.0},
        )  # fmt: skip


def test_queries_without_hits_and_of_other_splits_are_allowed(world):
    receipt, rows = world.mine(
        {"+": "p", "n": "n"}, {"a": "?", "b": "??", "c": "???", "d": "????"},
        [("a", "+", "train"), ("b", "+", "test"), ("c", "+", "train"), ("d", "+", "train")],
        {"bm25": {"b": ["n"], "c": ["n"]}, "dense": {}}, {"+": 1.0},
    )  # fmt: skip
    assert [(row["query_id"], row["passage_id"]) for row in rows] == [("c", "n")]
    assert (receipt.queries, receipt.starved) == (3, 3)
