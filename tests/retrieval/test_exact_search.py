"""Compare exact search over shards with plain numpy."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mining_world import write_embeddings

from tasks.core.base.errors import Mismatch
from tasks.core.retrieval import dense, exact
from tasks.core.retrieval.dense import dense_run


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """Set block sizes that do not align with shards, row groups, or queries."""
    monkeypatch.setattr(exact, "BLOCK_ROWS", 7)
    monkeypatch.setattr(exact, "BLOCK_QUERIES", 3)
    monkeypatch.setattr(exact, "PAIRS_AT_ONCE", 2)


def whole_numbers(rows, seed, spread=2):
    """Return vectors of small integers, whose products are exact and often equal."""
    return np.random.default_rng(seed).integers(-spread, spread + 1, (rows, 5)).astype(np.float32)


def brute_force(queries, vectors, depth):
    scores = queries @ vectors.T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return order, np.take_along_axis(scores, order, axis=1)


@pytest.mark.parametrize("shards", [1, 3, 60])
@pytest.mark.parametrize("depth", [1, 4, 50, 500])
def test_search_equals_brute_force_with_ties_by_lower_row(tmp_path, shards, depth):
    vectors, queries = whole_numbers(50, 1), whole_numbers(8, 2)
    embeddings = write_embeddings(tmp_path / "e", [f"p{row}" for row in range(50)], vectors, shards=shards)
    rows, scores = exact.exact_search(queries, embeddings, depth)
    expected_rows, expected_scores = brute_force(queries, vectors, depth)
    np.testing.assert_array_equal(rows, expected_rows)
    np.testing.assert_array_equal(scores, expected_scores)
    assert rows.dtype == np.int64
    assert scores.dtype == np.float32


@pytest.mark.parametrize("order", [1, -1])
def test_search_equals_brute_force_when_the_best_rows_come_last_or_first(tmp_path, order):
    vectors = np.arange(100, dtype=np.float32)[::order, None] // 3 * np.ones(5, np.float32)
    embeddings = write_embeddings(tmp_path / "e", [str(row) for row in range(100)], vectors)
    queries = np.array([[1, 0, 0, 0, 0], [-1, 0, 0, 0, 0], [0, 0, 0, 0, 0]], np.float32)
    np.testing.assert_array_equal(exact.exact_search(queries, embeddings, 5)[0], brute_force(queries, vectors, 5)[0])


def test_the_number_of_shards_changes_no_bit(tmp_path):
    random = np.random.default_rng(3)
    vectors, queries = (random.standard_normal((n, 48)).astype(np.float32) for n in (60, 10))
    ids = [f"p{row}" for row in range(60)]
    results = [
        exact.exact_search(queries, write_embeddings(tmp_path / f"{n}", ids, vectors, shards=n), 20) for n in (1, 2, 7)
    ]
    for rows, scores in results[1:]:
        assert rows.tobytes() == results[0][0].tobytes()
        assert scores.tobytes() == results[0][1].tobytes()


def test_vectors_ids_and_pair_scores_keep_the_order_of_the_request(tmp_path):
    vectors, queries = whole_numbers(50, 4), whole_numbers(6, 5)
    embeddings = write_embeddings(tmp_path / "e", [f"p {row}" for row in range(50)], vectors, shards=4)
    passage_rows = np.array([49, 0, 7, 7, 13, 48, 1])
    np.testing.assert_array_equal(exact.vectors_of(embeddings, passage_rows), vectors[passage_rows])
    assert exact.passage_ids(embeddings, passage_rows).to_pylist() == [f"p {row}" for row in passage_rows]
    query_rows = np.array([0, 5, 1, 1, 2, 0, 3])
    np.testing.assert_array_equal(
        exact.score_pairs(queries, embeddings, query_rows, passage_rows),
        (queries[query_rows] * vectors[passage_rows]).sum(axis=1),
    )


def test_empty_queries_and_empty_corpora_give_empty_results(tmp_path):
    embeddings = write_embeddings(tmp_path / "e", ["a", "b"], whole_numbers(2, 6))
    none = np.zeros((0, 5), np.float32)
    assert exact.exact_search(none, embeddings, 3)[0].shape == (0, 2)
    rows = np.zeros(0, np.int64)
    assert exact.vectors_of(embeddings, rows).shape == (0, 5)
    assert exact.passage_ids(embeddings, rows).to_pylist() == []
    assert exact.score_pairs(none, embeddings, rows, rows).shape == (0,)


def test_mismatched_inputs_are_refused(tmp_path):
    vectors = whole_numbers(9, 7)
    embeddings = write_embeddings(tmp_path / "e", list("abcdefghi"), vectors)
    with pytest.raises(Mismatch, match="dimension"):
        exact.exact_search(np.zeros((1, 4), np.float32), embeddings, 3)
    with pytest.raises(Mismatch, match="row 9"):
        exact.vectors_of(embeddings, np.array([9]))
    with pytest.raises(Mismatch, match="receipt lists 10"):
        exact.exact_search(vectors, embeddings.model_copy(update={"rows": 10}), 3)
    with pytest.raises(Mismatch, match="shards"):
        exact.exact_search(vectors, embeddings.model_copy(update={"shards": 3}), 3)


def test_non_finite_vectors_are_refused(tmp_path):
    broken = whole_numbers(9, 8)
    broken[4, 2] = np.nan
    embeddings = write_embeddings(tmp_path / "e", list("abcdefghi"), broken)
    with pytest.raises(Mismatch, match="not finite"):
        exact.exact_search(whole_numbers(2, 9), embeddings, 9)
    with pytest.raises(Mismatch, match="not finite"):
        exact.exact_search(broken, embeddings, 1)


def test_a_dense_run_has_the_common_run_format(tmp_path):
    vectors = np.eye(5, dtype=np.float32)[[0, 1, 0]]
    embeddings = write_embeddings(tmp_path / "e", ["x", "q1", "z"], vectors)
    queries = pa.table({"query_id": ["q0", "q1"], "text": ["first", "second"]})
    run = dense_run(tmp_path, "dense", queries, vectors[:2], embeddings, 2)
    assert pq.read_table(run.path / "run.parquet").to_pylist() == [
        {"query_id": "q0", "passage_id": "x", "rank": 1, "score": 1.0},
        {"query_id": "q0", "passage_id": "z", "rank": 2, "score": 1.0},
        {"query_id": "q1", "passage_id": "q1", "rank": 1, "score": 1.0},
        {"query_id": "q1", "passage_id": "x", "rank": 2, "score": 0.0},
    ]
    assert dense_run(tmp_path, "dense", queries, vectors[:2], embeddings, 2).reused
    assert not dense_run(tmp_path, "dense", queries.slice(0, 1), vectors[:1], embeddings, 2).reused
    assert not dense_run(tmp_path, "dense", queries, vectors[1:3], embeddings, 2).reused  # another query encoder


def test_a_dense_search_does_not_depend_on_rounding(tmp_path, monkeypatch):
    random = np.random.default_rng(5)
    vectors = random.standard_normal((200, 5)).astype(np.float32)
    vectors[50:90] = vectors[7]  # more equal vectors than SPARE candidates
    queries = np.concatenate([random.standard_normal((6, 5)), vectors[7:8]]).astype(np.float32)
    embeddings = write_embeddings(tmp_path / "e", [str(row) for row in range(200)], vectors)
    longest = float(np.linalg.norm(vectors, axis=1).max())
    bound = 5 * np.finfo(np.float32).eps * np.linalg.norm(queries, axis=1)[:, None] * longest

    def disturbed(part, *rest):
        rows, scores = exact.exact_search(part, *rest)
        query_rows = [int(np.flatnonzero((queries == vector).all(axis=1))[0]) for vector in part]
        noise = bound[query_rows] * random.uniform(-1, 1, scores.shape)
        order = np.argsort(-(scores + noise), axis=1)
        return np.take_along_axis(rows, order, axis=1), np.take_along_axis(scores + noise, order, axis=1)

    expected = dense.reproducible_search(queries, embeddings, 20, longest)
    np.testing.assert_array_equal(expected[0], brute_force(queries, vectors, 20)[0])
    monkeypatch.setattr(dense, "exact_search", disturbed)
    for _ in range(5):
        results = dense.reproducible_search(queries, embeddings, 20, longest)
        assert results[0].tobytes() == expected[0].tobytes()
        assert results[1].tobytes() == expected[1].tobytes()
