from __future__ import annotations

import math

import pyarrow as pa
import pytest

from tasks.core.evaluation.measures import means, per_query

QRELS = pa.table(
    {
        "query_id": ["q1", "q1", "q2", "q3"],
        "passage_id": ["a", "b", "c", "q3"],
        "relevance": pa.array([1, 1, 1, 1], pa.int32()),
    }
)


def run(rows: list[tuple[str, str, int]]) -> pa.Table:
    query, passage, rank = zip(*rows, strict=True)
    return pa.table({"query_id": query, "passage_id": passage, "rank": pa.array(rank, pa.int32())})


def test_measures_equal_manually_computed_values() -> None:
    table = per_query(run([("q1", "x", 1), ("q1", "a", 2), ("q1", "b", 3), ("q2", "c", 1)]), QRELS)
    first = dict(zip(table.column_names, (column[0].as_py() for column in table.columns), strict=True))
    ideal = 1 / math.log2(2) + 1 / math.log2(3)
    assert first["ndcg@10"] == pytest.approx((1 / math.log2(3) + 1 / math.log2(4)) / ideal)
    assert first["mrr@10"] == pytest.approx(1 / 2)
    assert first["recall@100"] == pytest.approx(1)
    assert first["map@100"] == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_an_unanswered_query_counts_zero() -> None:
    table = per_query(run([("q2", "c", 1)]), QRELS)
    assert table["query_id"].to_pylist() == ["q1", "q2", "q3"]
    assert means(table)["ndcg@10"] == pytest.approx(1 / 3)


def test_a_passage_whose_id_equals_the_query_id_is_kept() -> None:
    table = per_query(run([("q3", "q3", 1)]), QRELS)
    assert table["mrr@10"].to_pylist() == [0, 0, 1]


def test_the_eleventh_passage_does_not_count_at_ten() -> None:
    rows = [("q2", f"x{n}", n) for n in range(1, 11)] + [("q2", "c", 11)]
    table = per_query(run(rows), QRELS)
    assert (table["ndcg@10"][1].as_py(), table["mrr@10"][1].as_py(), table["recall@100"][1].as_py()) == (0, 0, 1)


def test_a_query_without_judgment_is_not_measured() -> None:
    assert per_query(run([("other", "a", 1)]), QRELS)["query_id"].to_pylist() == ["q1", "q2", "q3"]
