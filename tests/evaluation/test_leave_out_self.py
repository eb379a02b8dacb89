"""If queries are also passages, rankings keep the passage of the query by default and can leave it out."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
from evaluation_world import World, small_world, write_run
from things_and_traits import THINGS, TRAITS

from tasks.core.base.ranking import DENSE
from tasks.core.base.receipts import Evaluation
from tasks.core.base.sections.evaluation import EvaluationSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.evaluation.evaluate import evaluate_ranked, evaluate_ranking, evaluate_run, read_run, run_of
from tasks.core.report.night import recipe_of
from tasks.core.retrieval import own_passages
from tasks.core.retrieval.own_passages import leave_out_self
from tasks.core.training.dev_evaluation import dev_evaluation

TEXTS = {f"p{n:02d}": f"the {trait} {thing}" for n, (trait, thing) in enumerate((t, w) for t in TRAITS for w in THINGS)}
QRELS = [(f"p{n:02d}", f"p{(n + 1) % 60:02d}", ("dev", "test")[n % 2]) for n in range(60)]
TRAIN = ("t", "p00", "train")


@pytest.fixture
def world(tiny_model: Path, tmp_path: Path) -> World:
    return small_world(tmp_path, tiny_model, TEXTS, {**TEXTS, "t": "the castle"}, [*QRELS, TRAIN])


def ranked(evaluation: Evaluation, home: Path) -> dict[str, list[str]]:
    by_query: dict[str, list[str]] = {}
    for row in read_run(run_of(home, evaluation)).to_pylist():
        by_query.setdefault(row["query_id"], []).append(row["passage_id"])
        assert row["rank"] == len(by_query[row["query_id"]])
    return by_query


def test_the_passage_of_the_query_ranks_first_by_default_and_can_be_left_out(world: World) -> None:
    parts = (world.home, "challenger", world.encoder, world.embeddings, world.snapshot)
    plain = evaluate_ranked(*parts, DENSE, EvaluationSettings(depth=10))
    apart = evaluate_ranked(*parts, DENSE, EvaluationSettings(depth=10, leave_out_self=True))
    for query, passages in ranked(apart, world.home).items():
        with_it = ranked(plain, world.home)[query]
        assert with_it[0] == query
        assert passages[:9] == with_it[1:]
        assert len(passages) == 10
    assert apart.metrics["ndcg@10"] > plain.metrics["ndcg@10"]


def test_the_default_keeps_earlier_evaluation_keys_and_the_option_changes_keys_and_recipes(world: World) -> None:
    run = write_run(world.home, {query: sorted(TEXTS)[:12] for query, _, split in QRELS if split == "test"})
    plain = evaluate_ranking(world.home, "bm25", run, world.snapshot, EvaluationSettings())
    assert plain.digest == evaluate_run(world.home, "bm25", run, world.snapshot, "test").digest
    apart = evaluate_ranking(world.home, "bm25", run, world.snapshot, EvaluationSettings(leave_out_self=True))
    assert apart.digest != plain.digest
    own = world.settings.model_copy(update={"evaluation": EvaluationSettings(leave_out_self=True)})
    assert recipe_of(own) != recipe_of(world.settings)


@pytest.mark.parametrize("lines", [1, 3, 7, 1000])
def test_the_batch_size_does_not_change_a_run_without_own_passages(
    lines: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_passages, "LINES_AT_ONCE", lines)
    chance, ids = random.Random(lines), sorted(TEXTS)
    rankings = {query: chance.sample(ids, 1 + position % 9) for position, query in enumerate(ids[:20])}
    for query in ids[:20:3]:
        rankings[query][chance.randrange(len(rankings[query]))] = query
    run = leave_out_self(tmp_path, write_run(tmp_path, rankings), 5)
    by_query: dict[str, list[tuple[int, str]]] = {}
    for row in read_run(run).to_pylist():
        by_query.setdefault(row["query_id"], []).append((row["rank"], row["passage_id"]))
    expected = {
        query: [passage for passage in passages if passage != query][:5] for query, passages in rankings.items()
    }
    assert by_query == {query: list(enumerate(passages, 1)) for query, passages in expected.items() if passages}
    assert run.rows == sum(map(len, expected.values()))


def test_dev_evaluations_also_leave_out_the_passage_of_the_query(world: World) -> None:
    encoder = load_encoder(world.encoder.path)
    settings = TrainingSettings(dev_passages=60)
    plain, apart = (
        dev_evaluation(world.snapshot, "dev", encoder, settings, leave_out_self=leave_out)
        for leave_out in (False, True)
    )
    assert plain is not None
    assert apart is not None
    query_vectors = encoder.encode_queries([TEXTS[query] for query in plain.query_ids])
    pool = encoder.encode_passages([TEXTS[passage] for passage in plain.passage_ids])
    assert apart.ndcg_of(query_vectors, pool).mean() > plain.ndcg_of(query_vectors, pool).mean()
    answers = np.array([plain.passage_ids.index(f"p{(int(query[1:]) + 1) % 60:02d}") for query in plain.query_ids])
    assert (apart.ndcg_of(pool[answers], pool) == 1).all()  # each query is the text of its answer
