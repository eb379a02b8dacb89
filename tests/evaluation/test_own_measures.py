"""The gate compares any measure of ir-measures, and holds a second one above a floor."""

from __future__ import annotations

import pyarrow.parquet as pq
import pytest
from evaluation_world import write_run
from pydantic import ValidationError
from small_snapshot import snapshot_of

from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.base.settings import Settings
from tasks.core.evaluation.evaluate import evaluate_run, read_per_query
from tasks.core.evaluation.gate import Evidence, decide
from tasks.core.evaluation.own_measures import read_measures

PASSAGES = {f"p{n}": f"passage {n}" for n in range(30)}
QUERIES = {f"q{n}": f"query {n}" for n in range(4)}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Rank the only positive of four queries at 1, 2, 15, and nowhere, and at 1 for all."""
    home = tmp_path_factory.mktemp("measures") / "home"
    qrels = [(query, f"p{query[1:]}", "test") for query in QUERIES]
    snapshot = snapshot_of(home, PASSAGES, {**QUERIES, "t1": "a training query"}, [*qrels, ("t1", "p9", "train")])
    others = [f"p{n}" for n in range(10, 30)]
    ranked = {
        query: [*others[:place], f"p{query[1:]}", *others[place:]]
        for query, place in zip(QUERIES, (0, 1, 14), strict=False)
    }
    perfect = {query: [f"p{query[1:]}", *others] for query in QUERIES}
    runs = (evaluate_run(home, "system", write_run(home, run), snapshot, "test") for run in (ranked, perfect))
    return home, snapshot, *runs


def tables(world, gate):
    home, snapshot, *evaluations = world
    return [read_measures(home, evaluation, snapshot, gate) for evaluation in evaluations]


def test_a_measure_is_computed_from_the_run_and_the_evaluation_does_not_change(world):
    _, _, evaluation, _ = world
    gate = GateSettings(measure="recall@20", floor_measure="Success@1", floor=0.2)
    table, _ = tables(world, gate)
    assert table["R@20"].to_pylist() == [1, 1, 1, 0]
    assert table["Success@1"].to_pylist() == [1, 0, 0, 0]
    stored = read_per_query(evaluation)
    assert stored.column_names == ["query_id", "ndcg@10", "mrr@10", "recall@100", "map@100"]
    assert table.select(stored.column_names).equals(stored)
    assert tables(world, GateSettings())[0].equals(pq.read_table(evaluation.path / "per_query.parquet"))


def test_the_gate_decides_by_the_measure_and_the_floor(world):
    gate = GateSettings(measure="recall@2", min_queries=1, resamples=200)
    worse, perfect = tables(world, gate)
    decision = decide(Evidence(challenger=worse, bm25=perfect, serving=perfect), gate)
    assert not decision.promote
    assert decision.reasons[0].startswith("not shown to be no worse than the serving release: Recall@2 -0.5000")
    assert "Recall@2" in decision.findings[0].remedy
    deep = GateSettings(measure="recall@20", margin=0.9, min_queries=1, resamples=200)
    assert decide(
        Evidence(challenger=tables(world, deep)[0], bm25=worse.append_column("R@20", worse["R@2"])), deep
    ).promote
    floor = GateSettings(measure="recall@20", floor_measure="P@1", floor=0.5, margin=0.9, min_queries=1, resamples=200)
    decision = decide(Evidence(challenger=tables(world, floor)[0], bm25=tables(world, floor)[0]), floor)
    assert decision.reasons == ("P@1 0.2500 is below 0.5",)


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ({"measure": "recal@20"}, "no measure that ir-measures can compute"),
        ({"measure": ""}, "the default is"),
        ({"floor_measure": "P@5"}, "given together"),
        ({"floor": 0.5}, "given together"),
        ({"measure": "recall@500"}, "depth of 500 or more"),
    ],
)
def test_a_wrong_measure_is_refused_when_the_settings_are_read(gate, message):
    with pytest.raises(ValidationError, match=message):
        Settings(gate=gate)


def test_a_measure_has_the_same_name_however_it_is_written():
    names = ("recall@20", "R@20", "Recall@20")
    assert {GateSettings(measure=name).measure for name in names} == {"R@20"}
    assert {GateSettings(measure=name).measure for name in ("nDCG@10", "NDCG@10")} == {"ndcg@10"}
    assert Settings(gate={"measure": "R@500"}, evaluation={"depth": 500}).gate.measure == "R@500"
