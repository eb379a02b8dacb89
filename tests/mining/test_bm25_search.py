"""BM25 through the real Java and Lucene."""

from __future__ import annotations

from math import log

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core.base.errors import Mismatch
from tasks.core.base.settings import MiningSettings
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import queries

ODD_IDS = ["with space", "tab\there", "line\nbreak", '"quoted"', "ünïcode-狐", "0007", "7", "a,b", "-", "<&>"]
SETTINGS = MiningSettings(heap_mb=256, threads=2)


@pytest.fixture(scope="module")
def world(tmp_path_factory, make_snapshot):
    """Ten equal passages with odd ids, three for the formula, and 4,000 of random words with many equal scores."""
    home = tmp_path_factory.mktemp("bm25")
    random = np.random.default_rng(0)
    passages = dict.fromkeys(ODD_IDS, "the zebra grazes")
    passages |= {f"r{row}": " ".join(f"w{word}" for word in random.zipf(1.5, 8) % 50) for row in range(4000)}
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
    snapshot = make_snapshot(home / "snapshot", passages, wordings)
    return home, snapshot, build_index(home, snapshot, SETTINGS)


@pytest.fixture(scope="module")
def run(world):
    home, snapshot, index = world
    return search_bm25(home, index, queries(snapshot), 20, SETTINGS)


@pytest.fixture(scope="module")
def found(run):
    table = pq.read_table(run.path / "run.parquet")
    assert run.rows == table.num_rows
    by_query: dict[str, list] = {}
    for row in table.to_pylist():
        by_query.setdefault(row["query_id"], []).append(row)
    return by_query


def test_ids_and_queries_of_any_form_survive(found):
    for query in ("q tab", "-", "quote\"'"):
        assert [row["passage_id"] for row in found[query]][:10] == ODD_IDS


def test_a_passage_with_the_id_of_the_query_stays_in_the_run(found):
    assert "-" in [row["passage_id"] for row in found["-"]]


def test_equal_scores_keep_snapshot_order_and_ranks_count_from_one(found):
    rows = found["ties"]
    assert [row["rank"] for row in rows] == list(range(1, 21))
    scores = [row["score"] for row in rows]
    assert scores == sorted(scores, reverse=True)
    numbers = [int(row["passage_id"][1:]) for row in rows]
    for tied in set(scores):
        same = [number for number, score in zip(numbers, scores, strict=True) if score == tied]
        assert same == sorted(same)


def test_a_cut_among_equal_scores_takes_the_first_of_the_snapshot(world):
    home, snapshot, index = world
    asked = queries(snapshot)
    deep = pq.read_table(search_bm25(home, index, asked, 1000, SETTINGS).path / "run.parquet").to_pylist()
    scores = [row["score"] for row in deep if row["query_id"] == "ties"]
    through = [depth for depth in range(1, 900) if scores[depth - 1] == scores[depth + 11]]  # more than are looked at
    for depth in (through[0], through[-1]):
        cut = pq.read_table(search_bm25(home, index, asked, depth, SETTINGS).path / "run.parquet").to_pylist()
        assert cut == [row for row in deep if row["rank"] <= depth]


def test_a_query_without_a_known_word_has_no_hit(found):
    assert not {"unknown", "stop", "control"} & found.keys()


def test_a_query_longer_than_lucene_allows_is_cut_and_answered(found):
    assert "long" not in found
    assert found["long but early"][0]["passage_id"] in ODD_IDS


def test_threads_do_not_change_a_byte(world, run, tmp_path):
    _, snapshot, _ = world
    settings = SETTINGS.model_copy(update={"threads": 1})
    one = search_bm25(tmp_path, build_index(tmp_path, snapshot, settings), queries(snapshot), 20, settings)
    assert one.digest == run.digest
    assert not one.reused
    assert (one.path / "run.parquet").read_bytes() == (run.path / "run.parquet").read_bytes()


def test_scores_are_those_of_the_formula(tmp_path, make_snapshot):
    texts = {"a": "fox", "b": "fox fox dog", "c": "cat bird"}
    snapshot = make_snapshot(tmp_path / "snapshot", texts, {"q": "fox"})
    settings = SETTINGS.model_copy(update={"k1": 1.2, "b": 0.5})
    run = search_bm25(tmp_path, build_index(tmp_path, snapshot, settings), queries(snapshot), 10, settings)
    rows = {row["passage_id"]: row["score"] for row in pq.read_table(run.path / "run.parquet").to_pylist()}
    idf = log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # three passages, two hold the word; mean length 2
    assert rows == {
        "a": pytest.approx(idf * 1 / (1 + 1.2 * (1 - 0.5 + 0.5 * 1 / 2)), abs=1e-4),
        "b": pytest.approx(idf * 2 / (2 + 1.2 * (1 - 0.5 + 0.5 * 3 / 2)), abs=1e-4),
    }


def test_the_same_question_is_searched_once_and_another_one_anew(world, run):
    home, snapshot, index = world
    asked = queries(snapshot)
    again = search_bm25(home, index, asked, 20, SETTINGS.model_copy(update={"threads": 1}))
    assert again.reused
    assert again.digest == run.digest
    assert build_index(home, snapshot, SETTINGS).reused
    empty = asked.set_column(1, "text", pa.array([""] * asked.num_rows))
    others = [
        search_bm25(home, index, empty, 20, SETTINGS),
        search_bm25(home, index, asked, 20, SETTINGS.model_copy(update={"k1": 2.0})),
    ]
    assert [other.reused for other in others] == [False, False]
    assert [other.rows for other in others] == [0, run.rows]
    assert len({run.digest, *(other.digest for other in others)}) == 3


def test_nothing_of_the_text_is_left_beside_the_index(world):
    _, _, index = world
    assert not (index.path / "source").exists()


def test_an_index_of_another_stemmer_is_refused(world):
    home, snapshot, index = world
    with pytest.raises(Mismatch, match="krovetz"):
        search_bm25(home, index, queries(snapshot), 5, SETTINGS.model_copy(update={"stemmer": "krovetz"}))
