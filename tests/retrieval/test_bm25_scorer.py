"""BM25 over the lexical index: Lucene's passages, order, and scores."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

import numpy as np
import pytest
from small_snapshot import snapshot_of

from tasks.core.base.ranking import Ranking
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval import bm25_scorer
from tasks.core.retrieval.bm25_scorer import open_scorer
from tasks.core.retrieval.postings import build_postings


def in_file(score: float) -> float:
    """Return a score as Lucene's run file stores it: with six decimals."""
    return float(Decimal(float(score)).quantize(Decimal("0.000001"), ROUND_HALF_UP))


def same_hits(first, second) -> bool:
    return all(
        rows.tobytes() == other_rows.tobytes() and scores.tobytes() == other_scores.tobytes()
        for (rows, scores), (other_rows, other_scores) in zip(first, second, strict=True)
    )


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (1.2, 0.75)])
def test_passages_order_and_scores_are_those_of_lucene(world, k1, b):
    """Lucene's run file rounds scores to six decimals: order equally rounded scores by row, as the file's reader."""
    settings = MiningSettings(heap_mb=256, threads=2, k1=k1, b=b, scorer="lucene")
    expected, ids = world.lucene(world.snapshot.rows, settings), world.ids
    hits = world.scorer(k1=k1, b=b).search(world.texts, world.snapshot.rows)
    matched = 0
    for name, (rows, scores) in zip(world.queries["query_id"].to_pylist(), hits, strict=True):
        rounded = sorted((-in_file(score), row) for row, score in zip(rows.tolist(), scores, strict=True))
        assert [ids[row] for _, row in rounded] == [passage for passage, _ in expected[name]], name
        lucene = dict(expected[name])
        for row, score in zip(rows, scores, strict=True):
            assert score == pytest.approx(lucene[ids[row]], rel=1e-6, abs=6e-7), (name, ids[row])
        matched += len(rows)
    assert matched > 5000


def test_unusual_texts_match_their_queries(world):
    ids = world.ids
    hits = {
        name: [ids[row] for row in rows]
        for name, (rows, _) in zip(
            world.queries["query_id"].to_pylist(), world.scorer().search(world.texts, 20), strict=True
        )
    }
    assert not any(hits[name] for name in ("only-unknown", "stop-words", "empty", "control"))
    assert hits["emoji"][0] == "emoji"
    assert hits["beyond-bmp"] == ["beyond-bmp"]
    assert set(hits["long-run"]) == {"long-run", "long-run-beyond-bmp"}
    assert hits["han"] == ["han"]
    assert hits["composed"] == ["composed"]
    assert {"repeated", "control"} <= set(hits["over-1000"])  # found by words before the cut
    assert set(hits["repeated"]) == {"repeated", "control", "emoji"}


def test_a_repeated_query_word_counts_as_often_as_it_is_repeated(world):
    scorer = world.scorer()
    every = np.arange(world.snapshot.rows)
    fox, dog, both = (scorer.scores(scorer.weights(text), every) for text in ("fox", "dog", "fox fox dog fox"))
    np.testing.assert_allclose(both, 3 * fox + dog, rtol=1e-6)


@pytest.mark.parametrize("span", [1, 7, 10_000])
def test_hits_do_not_depend_on_the_number_of_passages_scored_at_once(world, span, monkeypatch):
    expected = world.scorer().search(world.texts, 20)
    monkeypatch.setattr(bm25_scorer, "SPAN", span)
    assert same_hits(world.scorer().search(world.texts, 20), expected)


def test_equal_scores_are_ordered_by_row(world):
    for rows, scores in world.scorer().search(world.texts, world.snapshot.rows):
        assert np.array_equal(np.lexsort((rows, -scores)), np.arange(len(rows)))


@pytest.mark.parametrize("depth", [1, 7, 100])
def test_a_shallow_search_is_the_start_of_a_deep_one(world, depth):
    scorer = world.scorer()
    deep = scorer.search(world.texts, world.snapshot.rows + 5)
    assert same_hits(scorer.search(world.texts, depth), [(rows[:depth], scores[:depth]) for rows, scores in deep])


def test_threads_and_batches_of_queries_do_not_change_a_byte(world, monkeypatch):
    scorer = world.scorer()
    alone = [scorer.search([text], 50)[0] for text in world.texts]
    assert same_hits(scorer.search(world.texts, 50), alone)
    monkeypatch.setattr(bm25_scorer, "BATCH", 7)
    for threads in (1, 2, 0):
        assert same_hits(scorer.search(world.texts, 50, threads), alone)


def test_scores_of_given_passages_are_those_of_the_search(world):
    scorer = world.scorer()
    shuffled = np.random.default_rng(1).permutation(world.snapshot.rows)
    for text, (rows, scores) in zip(world.texts, scorer.search(world.texts, world.snapshot.rows), strict=True):
        expected = np.zeros(world.snapshot.rows, np.float32)
        expected[rows] = scores
        assert scorer.scores(scorer.weights(text), shuffled).tobytes() == expected[shuffled].tobytes()


def test_passages_without_any_word_are_no_hits(tmp_path):
    snapshot = snapshot_of(tmp_path, {"a": "the", "b": "", "c": "of"}, {"q": "fox"})
    scorer = open_scorer(build_postings(tmp_path, snapshot, "en", "porter"), Ranking())
    ((rows, scores),) = scorer.search(["fox the"], 10)
    assert (len(rows), len(scores)) == (0, 0)
    assert scorer.scores(scorer.weights("fox"), np.arange(3)).tolist() == [0, 0, 0]
    assert scorer.search([], 10) == []
