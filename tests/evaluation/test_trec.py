from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Run, Snapshot
from tasks.core.evaluation.measures import per_query
from tasks.core.evaluation.trec import write_trec, write_trec_qrels
from tasks.core.retrieval.runs import RUN_SCHEMA
from tasks.core.snapshot.reader import qrels


def run_in(folder: Path, hits: list[tuple[str, str, int, float]]) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    columns = list(zip(*hits, strict=True))
    arrays = [pa.array(column, field.type) for column, field in zip(columns, RUN_SCHEMA, strict=True)]
    pq.write_table(pa.table(arrays, schema=RUN_SCHEMA), folder / "run.parquet")
    return Run(digest="r", path=folder, rows=len(hits), queries=0, depth=100)


def snapshot_in(home: Path, judged: list[tuple[str, str, int]]) -> Snapshot:
    """Write a snapshot of 300 passages with these test qrels and a training query."""
    passages = {f"p{n}": f"passage {n}" for n in range(300)}
    queries = {query: f"query {query}" for query in ("train", *(query for query, _, _ in judged))}
    pairs = [(query, passage, "test", relevance) for query, passage, relevance in judged]
    return snapshot_of(home, passages, queries, [*pairs, ("train", "p0", "train", 1)])


def drawn(seed: int) -> tuple[list[tuple[str, str, int, float]], list[tuple[str, str, int]]]:
    """A run of random length with many tied scores, graded judgments, and unanswered queries."""
    chance = random.Random(seed)
    hits, judged = [], []
    for number in range(40):
        passages = [f"p{n}" for n in chance.sample(range(300), chance.choice([0, 3, 12, 150]))]
        scores = sorted((chance.randrange(20) / 4 for _ in passages), reverse=True)
        hits += [(f"q{number}", passage, rank + 1, scores[rank]) for rank, passage in enumerate(passages)]
        relevant = chance.sample(range(300), chance.randint(1, 30))
        judged += [(f"q{number}", f"p{n}", chance.randint(1, 3)) for n in sorted(relevant)]
    return hits, judged


@pytest.mark.parametrize("seed", range(5))
def test_trec_eval_computes_the_same_figures_from_the_exported_files(seed: int, tmp_path: Path) -> None:
    import pytrec_eval

    hits, judged = drawn(seed)
    run, snapshot = run_in(tmp_path / "run", hits), snapshot_in(tmp_path / "snapshot", judged)
    write_trec(run, tmp_path / "run.txt")
    write_trec_qrels(snapshot, "test", tmp_path / "qrels.txt")
    with (tmp_path / "run.txt").open() as lines:
        theirs_run = pytrec_eval.parse_run(lines)
    with (tmp_path / "qrels.txt").open() as lines:
        theirs_qrels = pytrec_eval.parse_qrel(lines)
    measures = {"ndcg_cut_10", "recall_100", "map_cut_100", "recip_rank"}
    whole = pytrec_eval.RelevanceEvaluator(theirs_qrels, measures).evaluate(theirs_run)
    at_ten = {
        query: dict(sorted(hits.items(), key=lambda hit: -hit[1])[:10]) for query, hits in theirs_run.items()
    }  # trec_eval has no cutoff for the reciprocal rank
    cut = pytrec_eval.RelevanceEvaluator(theirs_qrels, {"recip_rank"}).evaluate(at_ten)

    ours = per_query(pq.read_table(run.path / "run.parquet"), qrels(snapshot, "test"))
    nothing = dict.fromkeys(measures, 0.0)
    for row in ours.to_pylist():
        theirs = whole.get(row["query_id"], nothing)
        assert row["ndcg@10"] == pytest.approx(theirs["ndcg_cut_10"], abs=5e-5)
        assert row["recall@100"] == pytest.approx(theirs["recall_100"], abs=5e-5)
        assert row["map@100"] == pytest.approx(theirs["map_cut_100"], abs=5e-5)
        assert row["mrr@10"] == pytest.approx(cut.get(row["query_id"], nothing)["recip_rank"], abs=5e-5)


def test_tied_scores_are_written_as_distinct_scores_in_the_order_of_the_run(tmp_path: Path) -> None:
    run = run_in(tmp_path, [("q", "a", 1, 0.5), ("q", "z", 2, 0.5), ("q", "m", 3, 0.5), ("r", "a", 1, 0.7)])
    write_trec(run, tmp_path / "run.txt")
    rows = [line.split() for line in (tmp_path / "run.txt").read_text().splitlines()]
    assert [(row[0], row[2], row[3]) for row in rows] == [
        ("q", "a", "1"),
        ("q", "z", "2"),
        ("q", "m", "3"),
        ("r", "a", "1"),
    ]
    scores = [float(row[4]) for row in rows]
    assert scores[0] > scores[1] > scores[2] == pytest.approx(0.5, abs=1e-6)


def test_an_id_with_white_space_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match="'a b'"):
        write_trec(run_in(tmp_path, [("q", "a b", 1, 0.5)]), tmp_path / "run.txt")
