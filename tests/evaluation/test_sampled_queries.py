"""A large split is measured on a sample of its queries that stays the same every night."""

from __future__ import annotations

import pyarrow.compute as pc
import pytest
from evaluation_world import write_run
from small_snapshot import snapshot_of

from tasks.core.base.sections.evaluation import EvaluationSettings, GateSettings
from tasks.core.evaluation.evaluate import evaluate_ranking, evaluate_run, read_per_query
from tasks.core.evaluation.own_measures import read_measures
from tasks.core.snapshot.held_out import held_out
from tasks.core.snapshot.reader import judged, qrels

MOST = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Return a home, two snapshots with 40 and 44 test queries, and a run in which every second query is answered."""
    home = tmp_path_factory.mktemp("sampled") / "home"
    passages = {f"p{n:02d}": f"passage {n}" for n in range(50)}

    def snapshot(count):
        texts = {f"q{n:02d}": f"query {n}" for n in range(count)}
        pairs = [(query, f"p{query[1:]}", "test") for query in texts]
        return snapshot_of(home, passages, {**texts, "t": "a training query"}, [*pairs, ("t", "p49", "train")])

    run = write_run(home, {f"q{n:02d}": [f"p{n:02d}" if n % 2 else "p49"] for n in range(40)})
    return home, snapshot(40), snapshot(44), run


def test_the_sample_keeps_its_queries_as_others_are_added(world):
    _, before, after, _ = world
    sample, pairs = held_out(before, "test", MOST)
    names = sample["query_id"].to_pylist()
    assert len(names) == MOST
    assert names == sorted(names)
    assert pairs["query_id"].to_pylist() == names
    later = set(held_out(after, "test", MOST).queries["query_id"].to_pylist())
    added = {f"q{n}" for n in range(40, 44)} & later
    assert set(names) >= later - added
    assert len(set(names) - later) == len(added)


@pytest.mark.parametrize("most", [0, 40, 1000])
def test_a_split_within_the_limit_is_measured_whole_under_the_same_key(world, most):
    home, snapshot, _, run = world
    sample, pairs = held_out(snapshot, "test", most)
    assert sample.equals(judged(snapshot, "test"))
    assert pairs.equals(qrels(snapshot, "test"))
    limited, whole = (evaluate_run(home, "x", run, snapshot, "test", limit) for limit in (most, 0))
    assert limited.digest == whole.digest


def test_the_measures_are_those_of_the_sampled_queries(world):
    home, snapshot, _, run = world
    whole = read_per_query(evaluate_run(home, "x", run, snapshot, "test"))
    sampled = evaluate_ranking(home, "x", run, snapshot, EvaluationSettings(max_queries=MOST))
    names = held_out(snapshot, "test", MOST).queries["query_id"]
    assert read_per_query(sampled).equals(whole.filter(pc.is_in(whole["query_id"], value_set=names)))
    assert sampled.rows == MOST
    answered = sum(int(name[1:]) % 2 for name in names.to_pylist())
    assert sampled.metrics["ndcg@10"] == pytest.approx(answered / MOST)
    measures = read_measures(home, sampled, snapshot, GateSettings(measure="Success@5"))
    assert pc.sum(measures["Success@5"]).as_py() == answered
