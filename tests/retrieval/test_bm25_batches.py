"""Batches of queries are searched with the compiled BM25 only where it ranks like Lucene."""

from __future__ import annotations

import logging

import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of

from tasks.core.base.ranking import Ranking
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.retrieval.bm25_batches import TOLERANCE, equals_lucene, fits_memory, search_batch
from tasks.core.retrieval.bm25_scorer import open_scorer
from tasks.core.retrieval.bm25_without_index import search_postings
from tasks.core.retrieval.postings import build_postings
from tasks.core.snapshot.reader import queries

COMPILED = MiningSettings(heap_mb=256, threads=2)
LUCENE = COMPILED.model_copy(update={"scorer": "lucene"})
DEPTH = 30


@pytest.fixture
def snapshot(tmp_path):
    words = ["fox", "dog", "river", "lamp", "stone", "violin", "copper"]
    texts = {f"p{n:03d}": " ".join(words[(n * step) % 7] for step in range(1, 3 + n % 5)) for n in range(200)}
    wordings = {f"q{n}": f"{words[n % 7]} {words[(n * 3) % 7]} {words[n % 5]}" for n in range(20)}
    return snapshot_of(tmp_path, texts, {**wordings, "unknown": "xylophone"}, [("q0", "p000", "train")])


def hits(run):
    table = pq.read_table(run.path / "run.parquet").to_pylist()
    return {(row["query_id"], row["rank"]): (row["passage_id"], row["score"]) for row in table}


def test_the_run_is_that_of_lucene_and_has_its_key(snapshot, tmp_path):
    runs = []
    for name, settings in (("compiled", COMPILED), ("lucene", LUCENE)):
        home = tmp_path / name
        home.mkdir()
        (home / "snapshots").symlink_to(snapshot.path.parent)
        runs.append(search_bm25(home, build_index(home, snapshot, settings), queries(snapshot), DEPTH, settings))
        assert (home / "postings").exists() == (name == "compiled")
    compiled, lucene = map(hits, runs)
    assert runs[0].digest == runs[1].digest  # homes of earlier versions keep their runs
    assert compiled.keys() == lucene.keys()
    assert len(compiled) > 300
    for place, (passage, score) in compiled.items():
        assert score == pytest.approx(lucene[place][1], abs=TOLERANCE)
        same_query = [hit for (query, _), hit in lucene.items() if query == place[0]]
        assert passage in [other for other, value in same_query if abs(value - score) <= TOLERANCE]


def test_without_an_index_of_lucene_the_run_has_the_same_key_and_bytes(snapshot, tmp_path):
    runs, homes = [], [tmp_path / name for name in ("indexed", "postings", "lucene")]
    for home in homes:
        home.mkdir()
        (home / "snapshots").symlink_to(snapshot.path.parent)
    runs.append(search_bm25(homes[0], build_index(homes[0], snapshot, COMPILED), queries(snapshot), DEPTH, COMPILED))
    for home, settings in zip(homes[1:], (COMPILED, LUCENE), strict=True):
        postings = build_postings(home, snapshot, "en", "porter")
        runs.append(search_postings(home, snapshot, postings, queries(snapshot), DEPTH, settings))
    assert len({run.digest for run in runs}) == 1  # so either run is reused by the other kind of night
    indexed, unindexed, _ = ((run.path / "run.parquet").read_bytes() for run in runs)
    assert indexed == unindexed
    assert [(home / "indexes").exists() for home in homes] == [True, False, True]  # Lucene searches if settings say so


def test_a_different_ranking_is_reported_and_left_to_lucene(snapshot, tmp_path, caplog):
    postings = build_postings(tmp_path, snapshot, "en", "porter")
    texts = queries(snapshot)["text"].to_pylist()
    equal, other = (open_scorer(postings, Ranking(b=b)) for b in (0.4, 0.9))
    caplog.clear()  # progress of building, where an earlier test enabled it
    with caplog.at_level(logging.WARNING, logger="nightshift"):
        assert equals_lucene(equal, texts, DEPTH, COMPILED, lambda sample: search_batch(equal, sample, DEPTH, COMPILED))
        assert not caplog.messages
        assert not equals_lucene(
            equal, texts, DEPTH, COMPILED, lambda sample: search_batch(other, sample, DEPTH, COMPILED)
        )
    (message,) = caplog.messages
    assert "Lucene searches all queries" in message
    assert any(repr(text) in message for text in texts)


def test_postings_that_exceed_half_of_the_memory_are_left_to_lucene(snapshot, tmp_path):
    postings = build_postings(tmp_path, snapshot, "en", "porter")
    assert fits_memory(postings)
    assert not fits_memory(postings.model_copy(update={"postings": 10**13}))
