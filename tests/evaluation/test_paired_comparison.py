from __future__ import annotations

from pathlib import Path

import pytest
from evaluation_world import World, small_world, write_run
from small_snapshot import snapshot_of

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Evaluation
from tasks.core.evaluation.evaluate import evaluate_run
from tasks.core.report.compare import compare_systems, export

TEXTS = {f"p{n:02d}": f"the story of a {word}" for n, word in enumerate(["river", "castle", "violin", "engine"])}
QUERIES = {"q1": "a river", "q2": "a castle", "q3": "a violin", "t1": "an engine"}
QRELS = [("q1", "p00", "test"), ("q2", "p01", "test"), ("q3", "p02", "test"), ("t1", "p03", "train")]


@pytest.fixture
def world(tiny_model: Path, tmp_path: Path) -> World:
    return small_world(tmp_path, tiny_model, TEXTS, QUERIES, QRELS)


def evaluation(world: World, system: str, ranked: dict[str, list[str]]) -> Evaluation:
    return evaluate_run(world.home, system, write_run(world.home, ranked), world.snapshot, "test")


@pytest.fixture
def pair(world: World) -> tuple[Evaluation, Evaluation]:
    before = evaluation(world, "before", {"q1": ["p00"], "q2": ["p03"], "q3": ["p02"]})
    after = evaluation(world, "after", {"q1": ["p00"], "q2": ["p01", "p03"], "q3": ["p03", "p00", "p02"]})
    return before, after


def test_gains_are_of_the_second_system_over_the_first(world: World, pair: tuple[Evaluation, Evaluation]) -> None:
    comparison = compare_systems(world.settings, pair[0].digest, pair[1].digest[:10], cases=5)
    assert (comparison.better, comparison.worse, comparison.comparison.queries) == (1, 1, 3)
    assert comparison.comparison.difference == pytest.approx((0 + 1 + (1 / 2 - 1)) / 3)
    assert [(case.query, case.gain, case.their_rank, case.our_rank) for case in comparison.gains] == [
        ("a castle", 1.0, None, 1)
    ]
    assert [(case.query, case.gain, case.their_rank, case.our_rank) for case in comparison.losses] == [
        ("a violin", -0.5, 1, 3)
    ]
    (loss,) = comparison.losses
    assert [passage.relevant for passage in loss.our_first] == [False, False, True]
    assert loss.their_first[0].text == "the story of a violin"
    assert [(query.a, query.b) for query in comparison.queries] == [(1, 1), (0, 1), (1, 0.5)]
    assert comparison.overlap == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)


def test_both_runs_and_the_judgments_are_exported(
    world: World, pair: tuple[Evaluation, Evaluation], tmp_path: Path
) -> None:
    comparison = compare_systems(world.settings, pair[0].digest, pair[1].digest, cases=0)
    export(world.home, comparison, tmp_path / "trec")
    assert (tmp_path / "trec" / "a.run").read_text().splitlines()[1].split()[:4] == ["q2", "Q0", "p03", "1"]
    assert len((tmp_path / "trec" / "b.run").read_text().splitlines()) == 6
    assert (tmp_path / "trec" / "qrels").read_text().splitlines() == ["q1 0 p00 1", "q2 0 p01 1", "q3 0 p02 1"]


def test_the_base_model_and_bm25_are_compared_like_any_system(
    world: World, pair: tuple[Evaluation, Evaluation]
) -> None:
    with pytest.raises(NightshiftError, match="no release serves yet"):
        compare_systems(world.settings, "base", "bm25", cases=0)
    comparison = compare_systems(world.settings, pair[0].digest, "bm25", cases=0)
    assert (comparison.b, comparison.metrics[1]["ndcg@10"]) == ("bm25", 1.0)
    comparison = compare_systems(world.settings, "base", pair[0].digest, cases=0)
    assert comparison.a == "base"
    again = compare_systems(world.settings, "base", pair[0].digest, cases=0)
    assert again == comparison  # measured once


def test_an_unknown_name_is_refused_with_the_known_names(world: World, pair: tuple[Evaluation, ...]) -> None:
    with pytest.raises(NightshiftError, match="'r0009-x': no release and no evaluation"):
        compare_systems(world.settings, "r0009-x", pair[0].digest, cases=0)
    with pytest.raises(NightshiftError, match="Releases: none yet"):
        compare_systems(world.settings, "serving", pair[0].digest, cases=0)


def test_evaluations_of_different_passages_are_not_compared(world: World, pair: tuple[Evaluation, ...]) -> None:
    other = snapshot_of(world.home, {**TEXTS, "more": "another story"}, QUERIES, QRELS)
    elsewhere = evaluate_run(world.home, "x", write_run(world.home, {"q1": ["p00"]}), other, "test")
    with pytest.raises(NightshiftError, match="different queries or passages"):
        compare_systems(world.settings, elsewhere.digest, pair[0].digest, cases=0)
