"""Answers of hybrid releases equal the evaluation's ranking, and brute force where there is no evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from release_fixtures import everywhere
from release_world import (
    HashingEncoder,
    encoder_of,
    evaluated,
    release_night,
    small,
    snapshot_of,
    texts,
    vectors_of,
    with_milvus,
)

from tasks.core.base.errors import Impossible
from tasks.core.base.files import load
from tasks.core.base.ranking import Mode, Ranking
from tasks.core.base.receipts import Postings
from tasks.core.release.publisher import Found
from tasks.core.retrieval.bm25_scorer import open_scorer
from tasks.core.retrieval.fusion import fuse_scores
from tasks.core.search.hybrid import HybridQuery, rank_hybrid
from tasks.core.search.searcher import Searcher

WEIGHT = 0.6
WORDS = ["lamp", "river", "stone", "cloud", "paper", "engine", "orchard", "violin", "harbour", "copper", "meadow"]
WEIGHTS = {Mode.DENSE: 1.0, Mode.LEXICAL: 0.0, Mode.HYBRID: WEIGHT}
UNINDEXED = ["unheard-of", "é ?", "the of and"]
NO_TERMS = (np.zeros(0, np.int64), np.zeros(0, np.float32))  # weights of a query, which `DrawnScores` does not read


def queries(count, passages=200):
    """Draw queries of a few words and a passage number; a tenth of them have words that no passage contains."""
    rng = np.random.default_rng(count)
    drawn = [" ".join([*rng.choice(WORDS, rng.integers(1, 4)), f"n{rng.integers(passages)}"]) for _ in range(count)]
    return [f"{query} {UNINDEXED[n % 3]}" if n % 10 == 0 else query for n, query in enumerate(drawn)]


def ids(answers):
    return [[hit.passage_id for hit in answer.hits] for answer in answers]


@everywhere
def test_every_mode_answers_as_the_evaluation_ranks(settings):
    release, sent, rows = release_night(settings, weight=WEIGHT), [*queries(150), *UNINDEXED], texts()
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.ranking == release.ranking
        for mode, weight in WEIGHTS.items():
            ranked = evaluated(settings.home, release, sent, weight=weight)
            answers = searcher.search(sent, 10, mode=mode)
            assert ids(answers) == [[passage for passage, _ in hits[:10]] for hits in ranked]
            for answer, hits in zip(answers, ranked, strict=True):
                scores = [score for _, score in hits[:10]]
                if mode is Mode.LEXICAL:  # a run has the share of the best score
                    scores = [score * release.ranking.lexical_scale for score in scores]
                assert [hit.score for hit in answer.hits] == pytest.approx(scores, rel=1e-5, abs=1e-5)
                assert [hit.rank for hit in answer.hits] == list(range(1, len(answer.hits) + 1))
                assert all(hit.text == rows[int(hit.passage_id[1:])]["text"] for hit in answer.hits)
            if mode is Mode.HYBRID:
                assert searcher.search(sent, 10) == answers
                assert [ids(searcher.search(query, 10))[0] for query in sent[:40]] == ids(answers[:40])
        assert ids(searcher.search(UNINDEXED, 10, mode=Mode.LEXICAL)) == [[], [], []]


@everywhere
def test_vectors_of_any_length_rank_as_the_evaluation_ranks_them(settings):
    release = release_night(settings, weight=0.3, unit=False)
    sent = queries(100)
    with Searcher.open(settings, HashingEncoder) as searcher:
        ranked = evaluated(settings.home, release, sent)
        assert ids(searcher.search(sent, 10)) == [[passage for passage, _ in hits[:10]] for hits in ranked]


@everywhere
def test_ids_of_any_kind_are_ranked_by_bm25(settings):
    odd = ['a"b', "a'b", "back\\slash", "new\nline", "é漢", "{x} %s", "both\"'\\", "tab\there", 'b"]', "\\n", "a or b"]
    rows = texts(300)
    named = [{**row, "passage_id": name} for row, name in zip(rows, odd, strict=False)] + rows[len(odd) :]
    release_night(settings, weight=0.01, snapshot=snapshot_of(settings.home, named))
    where = {"title": {"prefix": "entry"}}
    with Searcher.open(settings, HashingEncoder) as searcher:
        for place, name in enumerate(odd):
            for mode in Mode:
                (answer,) = searcher.search(f"n{place}", 1000, mode=mode)
                assert name in {hit.passage_id for hit in answer.hits}
            for filters in ({}, where, {"passage_id": {"in": [name]}}):
                (answer,) = searcher.search(f"n{place}", 1, where=filters)
                assert (answer.hits[0].passage_id, answer.hits[0].text) == (name, rows[place]["text"])


FILTERS = [
    ({"title": {"prefix": "entry 1"}}, lambda row: row["title"].startswith("entry 1")),
    ({"text": {"contains": "copper"}}, lambda row: "copper" in row["text"]),
    ({"text": {"contains": "%"}}, lambda row: "%" in row["text"]),
    ({"text": {"contains": "p_r"}}, lambda row: "p_r" in row["text"]),
    ({"text": {"contains": "lamp", "prefix": "r"}}, lambda row: "lamp" in row["text"] and row["text"][0] == "r"),
    ({"passage_id": {"not_in": ["p0003", "p0004"]}}, lambda row: row["passage_id"] not in ("p0003", "p0004")),
    ({"title": {"prefix": "no such title"}}, lambda row: False),
    ({"text": {"contains": "no_such_text"}}, lambda row: False),
]


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    """A searcher of a hybrid release of 400 passages, some of which contain wildcard characters, and their vectors."""
    settings = small(tmp_path_factory.mktemp("wild") / "var")
    rows = [
        {**row, "text": f"{row['text']} 5% p_r pxr" if n % 7 == 0 else f"{row['text']} pxr"}
        for n, row in enumerate(texts(400))
    ]
    snapshot = snapshot_of(settings.home, rows)
    release = release_night(settings, weight=WEIGHT, snapshot=snapshot)
    scorer = open_scorer(load(settings.home, Postings, release.ranking.postings), release.ranking)
    encoder = encoder_of(settings.home)
    with Searcher.open(settings, HashingEncoder) as searcher:
        yield searcher, rows, scorer, HashingEncoder(encoder.path), vectors_of(encoder, snapshot)


@pytest.mark.parametrize(("where", "matches"), FILTERS)
def test_filters_apply_to_passages_of_both_retrievers(wild, where, matches):
    searcher, rows, scorer, encoder, vectors = wild
    kept = np.array([matches(row) for row in rows])
    sent = [*queries(30, 400), "n7 copper pxr"]
    for k in (1, 10, 400):
        for query, answer in zip(sent, searcher.search(sent, k, where=where), strict=True):
            vector = encoder.encode_queries([query])[0]
            lexical = scorer.scores(scorer.weights(query), np.arange(len(rows)))
            dense = np.where(kept, vectors @ vector, -np.inf).astype(np.float32)
            # Without a lexical score, only the nearest are candidates.
            nearest = np.argsort(-dense)[: max(k, 100)]
            candidates = np.flatnonzero(kept & ((lexical > 0) | np.isin(np.arange(len(rows)), nearest)))
            if len(candidates) == 0:
                assert answer.hits == ()
                continue
            fused = fuse_scores(searcher.ranking, dense[candidates], lexical[candidates])
            best = candidates[np.lexsort((candidates, -fused))][:k]
            assert [int(hit.passage_id[1:]) for hit in answer.hits] == best.tolist()
            assert [hit.score for hit in answer.hits] == pytest.approx(sorted(fused, reverse=True)[:k], abs=1e-5)
    for mode in (Mode.DENSE, Mode.LEXICAL):
        for answer in searcher.search(sent, 50, where=where, mode=mode):
            assert all(kept[int(hit.passage_id[1:])] for hit in answer.hits)
    (lexical_only,) = searcher.search("pxr", 1000, where=where, mode=Mode.LEXICAL)
    assert {int(hit.passage_id[1:]) for hit in lexical_only.hits} == set(np.flatnonzero(kept).tolist())


def test_any_number_of_passages_is_a_prefix_of_more(tmp_path):
    settings = small(tmp_path / "var")
    release = release_night(settings, weight=WEIGHT, snapshot=snapshot_of(settings.home, texts(1500)))
    sent = [*queries(6, 1500), *UNINDEXED]
    with Searcher.open(settings, HashingEncoder) as searcher:
        for mode in Mode:
            for answer, deepest in zip(
                searcher.search(sent, 100, mode=mode), searcher.search(sent, 1000, mode=mode), strict=True
            ):
                assert len(deepest.hits) == 1000 or mode is Mode.LEXICAL
                scores = [hit.score for hit in deepest.hits]
                assert scores == sorted(scores, reverse=True)
                for k in (1, 2, 99):
                    assert ids(searcher.search(answer.query, k, mode=mode)) == [ids([answer])[0][:k]]
        ranked = evaluated(settings.home, release, sent)
        answers = searcher.search(sent, 100)
        assert ids(answers) == [[passage for passage, _ in hits] for hits in ranked]


class DrawnScores:
    """Stands for `Bm25Scorer`: drawn scores float32 (passages,) of one query."""

    def __init__(self, scores):
        self._scores = scores

    def weights(self, text):
        return text

    def scores(self, weights, rows):
        return self._scores[rows]


def test_vectors_are_fetched_only_where_they_can_matter_and_the_ranking_is_that_of_brute_force():
    rng, size, fetched, offered = np.random.default_rng(3), 300, 0, 0
    for _ in range(600):
        dimension, depth, k = rng.integers(2, 20), rng.integers(5, 60), rng.integers(1, 40)
        depth = max(depth, k)
        vectors = rng.standard_normal((size, dimension)).astype(np.float32)
        query = rng.standard_normal(dimension).astype(np.float32)
        lexical = np.where(rng.random(size) < rng.random(), rng.gamma(2, 2, size), 0).astype(np.float32)
        ranking = Ranking(weight=float(rng.uniform(0.05, 0.95)), dense_scale=3.0, lexical_scale=5.0)
        dense = np.array([float(vector @ query) for vector in vectors], np.float32)
        nearest = np.argsort(-dense)[:depth]
        terms = np.flatnonzero(lexical)
        best_terms = terms[np.lexsort((terms, -lexical[terms]))][:depth]
        requests = []

        def fetch(rows, vectors=vectors, requests=requests):
            requests.append(rows)
            return {row: vectors[row] for row in rows}

        hybrid = HybridQuery(
            NO_TERMS,
            query,
            [Found(row, "", float(dense[row]), {}) for row in nearest.tolist()],
            best_terms.astype(np.int32),
            lexical[best_terms],
        )
        (ranked,) = rank_hybrid([hybrid], DrawnScores(lexical), ranking, int(k), fetch)
        union = np.union1d(nearest, best_terms)
        fused = fuse_scores(ranking, dense[union], lexical[union])
        order = np.lexsort((union, -fused))[:k]
        assert [row for row, _ in ranked] == union[order].tolist()
        assert [score for _, score in ranked] == pytest.approx(fused[order], abs=1e-6)
        assert len(requests) <= 1
        fetched += sum(map(len, requests))
        offered += len(np.setdiff1d(best_terms, nearest))
    assert 0 < fetched < 0.9 * offered


def test_a_query_without_hits_of_the_encoder_is_ranked_by_the_vectors_of_the_lexical_hits():
    vectors = {3: np.array([2.0, 0.0], np.float32), 5: np.array([1.0, 0.0], np.float32)}
    query = HybridQuery(NO_TERMS, np.array([1.0, 0.0], np.float32), [], np.array([5, 3]), np.array([2, 1], np.float32))
    (ranked,) = rank_hybrid(
        [query], DrawnScores(np.zeros(6, np.float32)), Ranking(weight=0.5, lexical_scale=4.0), 10, lambda rows: vectors
    )
    assert ranked == [(3, pytest.approx(0.5 * 2 + 0.5 * 1 / 4)), (5, pytest.approx(0.5 * 1 + 0.5 * 2 / 4))]


def test_a_release_without_a_lexical_index_answers_dense_and_refuses_other_modes(settings):
    release_night(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.search("lamp") == searcher.search("lamp", mode=Mode.DENSE)
        for mode in (Mode.LEXICAL, Mode.HYBRID):
            with pytest.raises(Impossible, match=r"only dense search is possible\. The next release has one"):
                searcher.search("lamp", mode=mode)
        assert len(searcher.search("lamp")[0].hits) == 10


@pytest.mark.parametrize(("weight", "mode"), [(1.0, Mode.DENSE), (0.0, Mode.LEXICAL)])
def test_a_release_of_one_retriever_still_answers_in_every_mode(settings, weight, mode):
    release, sent = release_night(settings, weight=weight), queries(30)
    with Searcher.open(settings, HashingEncoder) as searcher:
        assert searcher.ranking.mode is mode
        assert searcher.search(sent) == searcher.search(sent, mode=mode)
        for other, other_weight in {**WEIGHTS, Mode.HYBRID: 0.5}.items():
            ranked = evaluated(settings.home, release, sent, weight=other_weight)
            assert ids(searcher.search(sent, mode=other)) == [[passage for passage, _ in hits[:10]] for hits in ranked]


def test_an_approximate_index_changes_only_missed_passages(settings):
    approximate = with_milvus(settings, index="HNSW", index_params={"M": 8})
    release, sent = release_night(approximate, weight=WEIGHT), queries(100)
    with Searcher.open(approximate, HashingEncoder) as searcher:
        ranked = evaluated(settings.home, release, sent)
        answers = ids(searcher.search(sent, 10))
    same = [answer == [passage for passage, _ in hits[:10]] for answer, hits in zip(answers, ranked, strict=True)]
    assert np.mean(same) > 0.9
