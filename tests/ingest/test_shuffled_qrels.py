"""Qrels with shuffled ids are detected with real BM25 runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_collection import build, passage, query

from tasks.core.base.errors import BadInput
from tasks.core.base.receipts import Run
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.ingest.ingest import ingest
from tasks.core.ingest.shuffled_qrels import check_qrels_fit, qrels_fit, warn_of_unanswered
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.reader import qrels, queries


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, pa.Table]:
    """Build a BM25 run of the training queries over 70 passages, and their qrels."""
    collection = build(tmp_path_factory.mktemp("judged"))
    collection.add("corpus.jsonl", *(passage(n) for n in range(30, 70)))
    collection.add("queries.jsonl", *(query(n) for n in range(30, 70)))
    collection.add("qrels/train.tsv", *(f"q{n}\tp{n}\t1" for n in range(30, 70)))
    settings = collection.settings().model_copy(update={"mining": MiningSettings(heap_mb=256)})
    _, snapshot = ingest(settings)
    index = build_index(settings.home, snapshot, settings.mining)
    run = search_bm25(settings.home, index, queries(snapshot, "train"), 100, settings.mining)
    return run, qrels(snapshot, "train")


def shuffled(table: pa.Table, column: str, seed: int) -> pa.Table:
    """Shuffle a column."""
    order = np.random.default_rng(seed).permutation(table.num_rows)
    return table.set_column(table.column_names.index(column), column, table[column].take(pa.array(order)))


def create_run(folder: Path, rows: list[tuple[str, str, int]]) -> Run:
    folder.mkdir(exist_ok=True)
    query, passage, rank = zip(*rows, strict=True)
    pq.write_table(pa.table({"query_id": query, "passage_id": passage, "rank": rank}), folder / "run.parquet")
    return Run(digest="run", path=folder, rows=len(rows), queries=len(set(query)), depth=3)


def test_correct_qrels_pass_when_a_run_covers_the_whole_corpus(judged: tuple[Run, pa.Table]) -> None:
    run, right = judged
    fit = check_qrels_fit(run, right, 5.0)
    assert fit.conclusive
    assert fit.lift > 5


@pytest.mark.parametrize("column", ["query_id", "passage_id"])
@pytest.mark.parametrize("seed", range(5))
def test_qrels_with_wrong_ids_are_refused_and_the_message_names_the_suspected_cause(
    judged: tuple[Run, pa.Table], column: str, seed: int
) -> None:
    run, right = judged
    with pytest.raises(BadInput, match=r"look shuffled[\s\S]*at random[\s\S]*check the id columns"):
        check_qrels_fit(run, shuffled(right, column, seed), 5.0)
    assert not qrels_fit(run, shuffled(right, column, seed)).suspicious(0)  # 0 disables the check


def test_the_figures_equal_manually_computed_values(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", [("q1", "a", 1), ("q1", "b", 2), ("q2", "a", 1), ("q2", "c", 2), ("q2", "b", 4)])
    fit = qrels_fit(run, pa.table({"query_id": ["q1", "q2", "q3"], "passage_id": ["a", "b", "d"]}))
    assert (fit.queries, fit.pairs, fit.answered) == (3, 3, 2 / 3)
    assert fit.recall == 2 / 3
    assert fit.chance_recall == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    gain, chance = (1 + 1 / 4) / 3, ((1 + 1) / 3 + (1 / 2 + 1 / 4) / 3) / 3
    assert fit.lift == pytest.approx(gain / chance)
    assert not fit.conclusive


def test_a_retriever_that_answers_few_queries_refuses_nothing(tmp_path: Path) -> None:
    run = create_run(tmp_path / "run", [("q1", "a", 1)])
    judgments = pa.table({"query_id": [f"q{n}" for n in range(50)], "passage_id": ["z"] * 50})
    assert not check_qrels_fit(run, judgments, 5.0).conclusive


def test_queries_without_hits_cause_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    right = pa.table({"query_id": [f"q{n}" for n in range(10)], "passage_id": [f"p{n}" for n in range(10)]})
    for answered in (10, 9):
        run = create_run(tmp_path / str(answered), [(f"q{n}", f"p{n}", 1) for n in range(answered)])
        warn_of_unanswered(qrels_fit(run, right), "test")
    assert caplog.text == ""
    run = create_run(tmp_path / "few", [("q0", "p0", 1)])
    warn_of_unanswered(qrels_fit(run, right), "test")
    assert "BM25 has no hit for 9 of 10 test queries" in caplog.text
