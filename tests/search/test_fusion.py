from __future__ import annotations

import os
import signal
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from release_world import HashingEncoder, release_night, small, snapshot_of, texts

from tasks.core.base.errors import Impossible
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_searcher import Bm25Searcher
from tasks.core.search.fusion import reciprocal_rank
from tasks.core.search.searcher import Searcher

QUERIES = ["lamp river stone n17", "copper  meadow\n", "n3", "orchard orchard violin", "unheard-of", "é ?"]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Build a home with a release and a BM25 index; return its settings and snapshot."""
    settings = small(tmp_path_factory.mktemp("fusion") / "var")
    release_night(settings)
    snapshot = snapshot_of(settings.home, texts())
    build_index(settings.home, snapshot, settings.mining)
    return settings, snapshot


@pytest.fixture(scope="module")
def lexical(world):
    settings, snapshot = world
    lexical = Bm25Searcher(settings.home, snapshot.digest, settings.mining, settings.milvus.query_seconds)
    yield lexical
    lexical.close()


@pytest.fixture(scope="module")
def searcher(world):
    with Searcher.open(world[0], HashingEncoder) as searcher:
        yield searcher


def test_each_ranking_adds_1_over_60_plus_rank():
    ranking = reciprocal_rank([7, 4], [4, 9])
    assert [row for row, _ in ranking] == [4, 7, 9]
    wanted = [Fraction(1, 62) + Fraction(1, 61), Fraction(1, 61), Fraction(1, 62)]
    assert [score for _, score in ranking] == pytest.approx([float(fraction) for fraction in wanted], rel=1e-12)


def test_ties_are_ordered_by_row():
    assert [row for row, _ in reciprocal_rank([5, 2], [2, 5])] == [2, 5]
    assert reciprocal_rank([], []) == []


def test_a_running_java_process_ranks_like_a_batch_process(world, lexical):
    settings, snapshot = world
    table = pa.table({"query_id": [f"q{n}" for n in range(len(QUERIES))], "text": QUERIES})
    index = build_index(settings.home, snapshot, settings.mining)
    run = pq.read_table(search_bm25(settings.home, index, table, 50, settings.mining).path / "run.parquet").to_pylist()
    batch = [[hit["passage_id"] for hit in run if hit["query_id"] == f"q{n}"] for n in range(len(QUERIES))]
    alone = [[f"p{row:04d}" for row in lexical.search([query], 50)[0]] for query in QUERIES]
    assert alone == batch
    assert [bool(ids) for ids in batch] == [True, True, True, True, False, False]
    assert lexical.search(QUERIES, 50) == [[int(passage_id[1:]) for passage_id in ranking] for ranking in batch]


def test_a_fused_answer_is_the_fusion_of_both_rankings(searcher, lexical):
    dense = [[int(hit.passage_id[1:]) for hit in answer.hits] for answer in searcher.search(QUERIES, 100)]
    for answer, ours, theirs in zip(
        searcher.search(QUERIES, 20, fuse=True), dense, lexical.search(QUERIES, 100), strict=True
    ):
        wanted = reciprocal_rank(ours, theirs)[:20]
        assert [(int(hit.passage_id[1:]), hit.score) for hit in answer.hits] == wanted
        assert [hit.rank for hit in answer.hits] == list(range(1, 21))
        assert all(hit.text == texts()[int(hit.passage_id[1:])]["text"] for hit in answer.hits)


def test_a_filter_applies_to_hits_of_bm25_only(searcher):
    hits = searcher.search("copper n3", 20, where={"text": {"contains": "copper"}}, fuse=True)[0].hits
    assert len(hits) == 20
    assert all("copper" in hit.text for hit in hits)


def test_a_killed_java_process_is_reported_and_restarted(world):
    settings, snapshot = world
    ranker = Bm25Searcher(settings.home, snapshot.digest, settings.mining, settings.milvus.query_seconds)
    before = ranker.search(["lamp"], 5)
    os.kill(ranker._child.pid, signal.SIGKILL)
    ranker._child.wait()
    with pytest.raises(Impossible, match="restarts it"):
        ranker.search(["lamp"], 5)
    assert ranker.search(["lamp"], 5) == before
    child = ranker._child
    ranker.close()
    assert child.returncode is not None


def test_without_an_index_fusion_is_refused_and_dense_search_works(tmp_path):
    settings = small(tmp_path / "var")
    release_night(settings)
    with Searcher.open(settings, HashingEncoder) as searcher:
        with pytest.raises(Impossible, match="no BM25 index"):
            searcher.search("lamp", fuse=True)
        assert len(searcher.search("lamp")[0].hits) == 10
