from __future__ import annotations

import json
from pathlib import Path

import pytest
from evaluation_world import World, small_world, write_run

from tasks.core.base.errors import BadInput
from tasks.core.base.ranking import DENSE, Ranking
from tasks.core.base.receipts import Evaluation
from tasks.core.evaluation.evaluate import evaluate_run
from tasks.core.evaluation.evidence import gather_evidence, overlap
from tasks.core.evaluation.golden import Answers, Golden, answer_golden_queries, read_golden
from tasks.core.retrieval.postings import build_postings

TEXTS = {f"p{n:02d}": f"the story of a {word}" for n, word in enumerate(["river", "castle", "violin", "engine"])}
QUERIES = {"q1": "a river", "q2": "a castle", "t1": "an engine"}
QRELS = [("q1", "p00", "test"), ("q2", "p01", "test"), ("t1", "p03", "train")]


@pytest.fixture
def world(tiny_model: Path, tmp_path: Path) -> World:
    return small_world(tmp_path, tiny_model, TEXTS, QUERIES, QRELS)


def answers_of(world: World, golden: list[Golden], depth: int, weight: float = 1.0) -> Answers:
    postings = build_postings(world.home, world.snapshot, "en", "porter")
    ranking = Ranking(weight=weight, postings=postings.digest)
    return answer_golden_queries(world.home, golden, world.encoder, world.embeddings, world.snapshot, ranking, depth)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_query_equal_to_its_passage_is_answered_and_others_are_named_with_their_rank(
    world: World, weight: float
) -> None:
    golden = [Golden(query=TEXTS["p02"], passage_id="p02"), Golden(query=TEXTS["p02"], passage_id="p03")]
    answers = answers_of(world, golden, 1, weight)
    assert answers.total == 2
    (missed,) = answers.missed
    assert missed.startswith(f"golden query “{TEXTS['p02']}”: passage p03 is at rank ")


def test_golden_queries_are_ranked_as_the_release_would_rank_them(world: World) -> None:
    golden = [Golden(query="violin", passage_id="p02"), Golden(query="violin", passage_id="p03")]
    (missed,) = answers_of(world, golden, 1, 0.0).missed
    assert missed.endswith("passage p03 is not among the first 1 (must be at 1 or above)")  # BM25 has one hit


def test_a_missing_golden_passage_is_reported(world: World) -> None:
    (missed,) = answers_of(world, [Golden(query="a river", passage_id="gone")], 10).missed
    assert "passage gone is not in the snapshot" in missed


def test_golden_queries_are_read_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text('{"query": "a", "passage_id": "p1"}\n\n{"query": "b", "passage_id": "p2"}\n')
    assert read_golden(file) == [Golden(query="a", passage_id="p1"), Golden(query="b", passage_id="p2")]


@pytest.mark.parametrize("line", ["{", '{"query": "b"}', '{"query": "b", "passage_id": "p", "rank": 3}', "[]"])
def test_a_wrong_golden_line_is_named(line: str, tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(f'{{"query": "a", "passage_id": "p1"}}\n{line}\n')
    with pytest.raises(BadInput, match="line 2"):
        read_golden(file)


def test_a_golden_file_that_is_missing_or_empty_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not found"):
        read_golden(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(BadInput, match="no line"):
        read_golden(tmp_path / "empty.jsonl")


def evaluation(world: World, system: str, ranked: dict[str, list[str]]) -> Evaluation:
    return evaluate_run(world.home, system, write_run(world.home, ranked), world.snapshot, "test")


def test_overlap_is_the_share_of_the_first_passages_in_common(world: World) -> None:
    left = evaluation(world, "left", {"q1": ["p00", "p01"], "q2": ["p01", "p02"]})
    right = evaluation(world, "right", {"q1": ["p01", "p00"], "q2": ["p01", "p03"]})
    assert overlap(world.home, left, right) == pytest.approx((2 / 2 + 1 / 2) / 2)
    assert overlap(world.home, left, left) == 1
    assert overlap(world.home, left, right, top=1) == pytest.approx((0 + 1) / 2)


def test_evidence_is_gathered_from_the_artifacts(world: World, tmp_path: Path) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(json.dumps({"query": TEXTS["p02"], "passage_id": "p02"}))
    rules = world.settings.gate.model_copy(update={"golden": file, "golden_depth": 1})
    best, none = {"q1": ["p00"], "q2": ["p01"]}, {"q1": ["p03"], "q2": ["p03"]}
    figures = {
        "challenger": evaluation(world, "challenger", best),
        "bm25": evaluation(world, "bm25", none),
        "serving": evaluation(world, "serving", none),
    }
    evidence = gather_evidence(world.home, figures, world.encoder, world.embeddings, world.snapshot, DENSE, None, rules)
    assert evidence.challenger["ndcg@10"].to_pylist() == [1, 1]
    assert evidence.serving is not None
    assert evidence.serving["ndcg@10"].to_pylist() == [0, 0]
    assert evidence.base is None
    assert evidence.overlap == 0
    assert evidence.golden == (1, ())
