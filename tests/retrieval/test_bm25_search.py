"""Search with BM25 through real Java and Lucene."""

from __future__ import annotations

from math import log

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of

from tasks.core.base.errors import Mismatch
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import queries

UNUSUAL_IDS = ["with space", "tab\there", "line\nbreak", '"quoted"', "ünïcode-狐", "0007", "7", "a,b", "-", "<&>"]
SETTINGS = MiningSettings(heap_mb=256, threads=2, scorer="lucene")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Index ten equal passages with unusual ids, and 4,000 passages of random words with many equal scores."""
    home = tmp_path_factory.mktemp("bm25")
    random = np.random.default_rng(0)
    passages = dict.fromkeys(UNUSUAL_IDS, "the zebra grazes")
    passages |= {f"r{row:04d}": " ".join(f"w{word}" for word in random.zipf(1.5, 8) % 50) for row in range(4000)}
    passages |= {"empty-words": "the of and"}
    wordings = {
        "q tab": "zebra\ton the\nplain",
        "-": "grazes",
        "quote\"'": 'zebra AND (NOT "w1',
        "unknown": "xylophone",
        "stop": "the of",
        "control": "\x00 \t",
        "long": " ".join(f"longword{number}" for number in range(3000)) + " zebra",
        "long but early": "zebra " + " ".join(f"longword{number}" for number in range(3000)),
        "ties": "w1 w2",
    }
    snapshot = snapshot_of(home, passages, wordings)
    return home, snapshot, build_index(home, snapshot, SETTINGS)


@pytest.fixture(scope="module")
def run(world):
    home, snapshot, index = world
    return search_bm25(home, index, queries(snapshot), 20, SETTINGS)


@pytest.fixture(scope="module")
def hits_by_query(run):
    table = pq.read_table(run.path / "run.parquet")
    assert run.rows == table.num_rows
    by_query: dict[str, list] = {}
    for row in table.to_pylist():
        by_query.setdefault(row["query_id"], []).append(row)
    return by_query


def test_ids_and_queries_of_any_form_are_searched(hits_by_query):
    for query in ("q tab", "-", "quote\"'"):
        assert [row["passage_id"] for row in hits_by_query[query]][:10] == sorted(UNUSUAL_IDS)


def test_a_passage_with_the_id_of_the_query_stays_in_the_run(hits_by_query):
    assert "-" in [row["passage_id"] for row in hits_by_query["-"]]


def test_equal_scores_keep_snapshot_order_and_ranks_count_from_one(hits_by_query):
    rows = hits_by_query["ties"]
    assert [row["rank"] for row in rows] == list(range(1, 21))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    numbers = [int(row["passage_id"][1:]) for row in rows]
    for tied in set(scores):
        same = [number for number, score in zip(numbers, scores, strict=True) if score == tied]
        assert same == sorted(same)


def test_equal_scores_at_the_cut_are_ordered_by_snapshot_row(world):
    home, snapshot, index = world
    all_queries = queries(snapshot)
    deep = pq.read_table(search_bm25(home, index, all_queries, 1000, SETTINGS).path / "run.parquet").to_pylist()
    scores = [row["score"] for row in deep if row["query_id"] == "ties"]
    tied = [depth for depth in range(1, 900) if scores[depth - 1] == scores[depth + 11]]  # beyond SPARE
    for depth in (tied[0], tied[-1]):
        cut = pq.read_table(search_bm25(home, index, all_queries, depth, SETTINGS).path / "run.parquet").to_pylist()
        assert cut == [row for row in deep if row["rank"] <= depth]


def test_a_query_without_an_indexed_word_has_no_hits(hits_by_query):
    assert not {"unknown", "stop", "control"} & hits_by_query.keys()


def test_a_query_longer_than_lucene_allows_is_cut_and_answered(hits_by_query):
    assert "long" not in hits_by_query
    assert hits_by_query["long but early"][0]["passage_id"] in UNUSUAL_IDS


def test_threads_do_not_change_a_byte(world, run, tmp_path):
    _, snapshot, _ = world
    settings = SETTINGS.model_copy(update={"threads": 1})
    single = search_bm25(tmp_path, build_index(tmp_path, snapshot, settings), queries(snapshot), 20, settings)
    assert single.digest == run.digest
    assert not single.reused
    assert (single.path / "run.parquet").read_bytes() == (run.path / "run.parquet").read_bytes()


def test_scores_equal_the_bm25_formula(tmp_path):
    texts = {"a": "fox", "b": "fox fox dog", "c": "cat bird"}
    snapshot = snapshot_of(tmp_path, texts, {"q": "fox"})
    settings = SETTINGS.model_copy(update={"k1": 1.2, "b": 0.5})
    run = search_bm25(tmp_path, build_index(tmp_path, snapshot, settings), queries(snapshot), 10, settings)
    rows = {row["passage_id"]: row["score"] for row in pq.read_table(run.path / "run.parquet").to_pylist()}
    idf = log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # three passages, two contain the word; mean length 2
    assert rows == {
        "a": pytest.approx(idf * 1 / (1 + 1.2 * (1 - 0.5 + 0.5 * 1 / 2)), abs=1e-4),
        "b": pytest.approx(idf * 2 / (2 + 1.2 * (1 - 0.5 + 0.5 * 3 / 2)), abs=1e-4),
    }


def test_an_equal_search_reuses_the_run_and_another_search_does_not(world, run):
    home, snapshot, index = world
    all_queries = queries(snapshot)
    again = search_bm25(home, index, all_queries, 20, SETTINGS.model_copy(update={"threads": 1}))
    assert again.reused
    assert again.digest == run.digest
    assert build_index(home, snapshot, SETTINGS).reused
    empty = all_queries.set_column(1, "text", pa.array([""] * all_queries.num_rows))
    other_runs = [
        search_bm25(home, index, empty, 20, SETTINGS),
        search_bm25(home, index, all_queries, 20, SETTINGS.model_copy(update={"k1": 2.0})),
    ]
    assert [other.reused for other in other_runs] == [False, False]
    assert [other.rows for other in other_runs] == [0, run.rows]
    assert len({run.digest, *(other.digest for other in other_runs)}) == 3


def test_the_source_files_are_removed_after_indexing(world):
    _, _, index = world
    assert not (index.path / "source").exists()


def test_an_index_of_another_stemmer_is_refused(world):
    home, snapshot, index = world
    with pytest.raises(Mismatch, match="krovetz"):
        search_bm25(home, index, queries(snapshot), 5, SETTINGS.model_copy(update={"stemmer": "krovetz"}))
