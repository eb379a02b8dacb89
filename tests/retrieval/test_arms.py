"""Both retrievers score every passage that either ranks high; from these scores any hybrid ranking follows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mining_world import write_embeddings

from tasks.core.base.ranking import Ranking
from tasks.core.retrieval import arms as module
from tasks.core.retrieval.arms import Arms, fused_run, score_arms
from tasks.core.retrieval.dense import dense_run
from tasks.core.retrieval.runs import LazyVectors

DEPTH, DIMENSION = 12, 6


@pytest.fixture(scope="module")
def dense(world, tmp_path_factory):
    """Embeddings with vectors of different lengths, some equal, and query vectors, one of them zero."""
    random = np.random.default_rng(3)
    vectors = random.standard_normal((world.snapshot.rows, DIMENSION)) * random.uniform(
        0.2, 3, (world.snapshot.rows, 1)
    )
    vectors[40:80] = vectors[7]
    vectors = vectors.astype(np.float32)
    folder = tmp_path_factory.mktemp("vectors") / "e"
    embeddings = write_embeddings(folder, world.ids, vectors, world.snapshot.digest, group=50)
    query_vectors = random.standard_normal((len(world.texts), DIMENSION)).astype(np.float32)
    query_vectors[2], query_vectors[3] = 0, vectors[7]
    return vectors, embeddings, query_vectors


@pytest.fixture(scope="module")
def ranking(world, dense):
    return Ranking(weight=0.6, dense_scale=3.0, lexical_scale=2.0, postings=world.postings.digest)


@pytest.fixture(scope="module")
def scored(world, dense, ranking):
    _, embeddings, query_vectors = dense
    return score(world, embeddings, ranking, world.queries, query_vectors)


def score(world, embeddings, ranking, queries, query_vectors, name="v"):
    vectors = LazyVectors(name, lambda: query_vectors)
    return score_arms(world.home, queries, vectors, embeddings, world.postings, ranking, DEPTH)


def table_of(scores):
    return pq.read_table(scores.path / "arms.parquet")


def run_of(world, scores, weight, depth=2 * DEPTH):
    """Return passage ids and scores of each query, best first."""
    run = fused_run(world.home, scores, Ranking(weight=weight, dense_scale=3.0, lexical_scale=2.0), depth)
    hits = {}
    for row in pq.read_table(run.path / "run.parquet").to_pylist():
        passages, values = hits.setdefault(row["query_id"], ([], []))
        passages.append(row["passage_id"])
        values.append(row["score"])
        assert row["rank"] == len(passages) <= depth
    return hits


def lexical_scores(world):
    """BM25 scores float32 (queries, passages) of every passage."""
    scores = np.zeros((len(world.texts), world.snapshot.rows), np.float32)
    for query, (rows, values) in enumerate(world.scorer().search(world.texts, world.snapshot.rows)):
        scores[query, rows] = values
    return scores


def test_every_passage_has_its_true_score_from_both_retrievers(world, dense, scored):
    vectors, _, query_vectors = dense
    table = table_of(scored)
    query, row = table["query"].to_numpy(), table["row"].to_numpy()
    true_dense = query_vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    np.testing.assert_allclose(table["dense"].to_numpy(), true_dense[query, row], rtol=1e-5, atol=1e-5)
    assert table["lexical"].to_numpy().tobytes() == lexical_scores(world)[query, row].tobytes()
    lucene = {name: dict(hits) for name, hits in world.lucene(world.snapshot.rows).items()}
    for name, passage, lexical in zip(
        *(table[n].to_pylist() for n in ("query_id", "passage_id", "lexical")), strict=True
    ):
        assert lexical == pytest.approx(lucene[name].get(passage, 0), rel=1e-6, abs=6e-7)
    assert [world.ids[number] for number in row] == table["passage_id"].to_pylist()
    assert [world.queries["query_id"][number].as_py() for number in query] == table["query_id"].to_pylist()


def test_the_passages_are_the_best_of_either_retriever(world, dense, scored):
    vectors, _, query_vectors = dense
    table = table_of(scored)
    lexical = lexical_scores(world)
    for number in range(len(world.texts)):
        part = table.filter(pa.array(table["query"].to_numpy() == number))
        rows = part["row"].to_numpy()
        in_dense, in_lexical = (part[name].to_numpy() for name in ("in_dense", "in_lexical"))
        products = np.einsum("ij,j->i", vectors, query_vectors[number])
        assert set(rows[in_dense]) == set(np.argsort(-products, kind="stable")[:DEPTH])
        hits = np.argsort(-lexical[number], kind="stable")[:DEPTH]
        assert set(rows[in_lexical]) == set(hits[lexical[number][hits] > 0])
        assert (in_dense | in_lexical).all()
        assert (np.diff(rows) > 0).all()


def test_weight_one_ranks_as_the_dense_run(world, dense, scored):
    _, embeddings, query_vectors = dense
    run = pq.read_table(
        dense_run(world.home, "d", world.queries, query_vectors, embeddings, DEPTH).path / "run.parquet"
    )
    expected = {}
    for row in run.to_pylist():
        expected.setdefault(row["query_id"], []).append(row["passage_id"])
    assert {name: passages for name, (passages, _) in run_of(world, scored, 1.0).items()} == expected


def test_weight_zero_ranks_as_bm25(world, scored):
    hits = world.scorer().search(world.texts, DEPTH)
    expected = {
        name: [world.ids[row] for row in rows]
        for name, (rows, _) in zip(world.queries["query_id"].to_pylist(), hits, strict=True)
        if len(rows)
    }
    assert {name: passages for name, (passages, _) in run_of(world, scored, 0.0).items()} == expected


@pytest.mark.parametrize("weight", [0.05, 0.6, 0.95])
def test_a_hybrid_ranking_is_the_weighted_sum_over_both_retrievers_passages(world, dense, scored, ranking, weight):
    vectors, _, query_vectors = dense
    lexical = lexical_scores(world).astype(np.float64)
    runs = run_of(world, scored, weight)
    for number, name in enumerate(world.queries["query_id"].to_pylist()):
        products = vectors.astype(np.float64) @ query_vectors[number].astype(np.float64)
        candidates = set(np.argsort(-np.einsum("ij,j->i", vectors, query_vectors[number]), kind="stable")[:DEPTH])
        hits = np.argsort(-lexical[number], kind="stable")[:DEPTH]
        candidates |= set(hits[lexical[number][hits] > 0])
        expected = weight * products / ranking.dense_scale + (1 - weight) * lexical[number] / ranking.lexical_scale
        passages, scores = runs[name]
        assert {world.ids[row] for row in candidates} == set(passages)
        rows = [world.ids.index(passage) for passage in passages]
        np.testing.assert_allclose(scores, expected[rows], rtol=1e-5, atol=1e-5)
        assert scores == sorted(scores, reverse=True)
        equal = [row for row in rows if 40 <= row < 80 and lexical[number][row] == 0]  # of equal vectors
        assert equal == sorted(equal)


def test_a_shallow_run_is_the_start_of_a_deep_one(world, scored):
    deep, shallow = run_of(world, scored, 0.6), run_of(world, scored, 0.6, 5)
    assert shallow == {name: (passages[:5], scores[:5]) for name, (passages, scores) in deep.items()}


def test_a_query_has_the_same_scores_among_other_queries(world, dense, scored, ranking):
    _, embeddings, query_vectors = dense
    chosen = np.random.default_rng(4).permutation(len(world.texts))[:9]
    part = world.queries.take(pa.array(chosen))
    alone = score(world, embeddings, ranking, part, query_vectors[chosen], "part")
    every = run_of(world, scored, 0.6)
    assert run_of(world, alone, 0.6) == {name: every[name] for name in part["query_id"].to_pylist()}


def test_batches_of_queries_do_not_change_the_scores(world, dense, scored, ranking, monkeypatch):
    _, embeddings, query_vectors = dense
    monkeypatch.setattr(module, "AT_ONCE", 7)
    again = score(world, embeddings, ranking, world.queries, query_vectors, "batches")
    assert again.rows == scored.rows
    assert table_of(again).equals(table_of(scored))


def test_equal_arguments_reuse_the_scores_and_others_do_not(world, dense, scored, ranking):
    _, embeddings, query_vectors = dense
    assert score(world, embeddings, ranking, world.queries, None).reused
    other = ranking.model_copy(update={"weight": 0.3, "dense_scale": 9.0})  # the scores serve every weight
    assert score(world, embeddings, other, world.queries, None).digest == scored.digest
    for change in ({"k1": 1.5}, {"b": 0.1}):
        changed = score(world, embeddings, ranking.model_copy(update=change), world.queries, query_vectors)
        assert not changed.reused
        assert changed.digest != scored.digest
    half = Arms(scored).fuse(Ranking(weight=0.5))
    assert half.shape == (scored.rows,)
    assert np.isfinite(half).all()


def test_the_scales_are_the_mean_scores_of_the_best_passages(world, dense, scored):
    vectors, _, query_vectors = dense
    expected = (query_vectors @ vectors.T).max(axis=1).mean(), lexical_scores(world).max(axis=1).mean()
    assert Arms(scored).scales() == pytest.approx(expected, rel=1e-3)
