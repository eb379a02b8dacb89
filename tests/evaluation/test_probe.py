from __future__ import annotations

import random
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from evaluation_world import World, small_world, write_run
from things_and_traits import THINGS, TRAITS

from tasks.core.base.files import produce
from tasks.core.base.receipts import Encoder, Run
from tasks.core.base.settings import Settings
from tasks.core.embedding.shards import gather_shards
from tasks.core.encoder.dual_encoder import fingerprint, load_encoder, passage_fingerprint, save_encoder
from tasks.core.evaluation.probe import probe

PAIRS = [(trait, thing) for trait in TRAITS for thing in THINGS]
PASSAGES = {f"p{n:03d}": f"the {trait} {thing}" for n, (trait, thing) in enumerate(PAIRS)}
PASSAGES |= {f"x{n:03d}": f"story {n} of one {THINGS[n % 10]}" for n in range(140)}
QUERIES = {f"q{n:03d}": f"a {trait} {thing}" for n, (trait, thing) in enumerate(PAIRS)}
QRELS = [(f"q{n:03d}", f"p{n:03d}", "test") for n in range(60)]
TRAIN = ("t000", "x000", "train")


@pytest.fixture
def world(tiny_model: Path, tmp_path: Path) -> World:
    return small_world(tmp_path, tiny_model, PASSAGES, {**QUERIES, "t000": "story 0"}, [*QRELS, TRAIN])


def rules(world: World, **evaluation: float | str) -> Settings:
    """The dense rankings are compared: BM25 alone would answer these queries perfectly."""
    chosen = {"probe_queries": 40, "probe_depth": 2, "probe_random": 20, "ranking": "dense", **evaluation}
    return world.settings.model_copy(update={"evaluation": world.settings.evaluation.model_copy(update=chosen)})


def runs(world: World) -> tuple[Run, Run]:
    ids, chance = sorted(PASSAGES), random.Random(0)
    return (
        write_run(world.home, {query: chance.sample(ids, 5) for query in QUERIES}),
        write_run(world.home, {query: chance.sample(ids, 5) for query in QUERIES}),
    )


def damaged(world: World) -> Encoder:
    """The encoder of the world with its word embeddings replaced by noise."""

    def build(folder: Path) -> dict[str, object]:
        encoder = load_encoder.__wrapped__(world.encoder.path)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for tower in encoder.towers.values():
                embeddings = tower.transformer.get_input_embeddings().weight
                embeddings.copy_(torch.zeros_like(embeddings) + torch.randn(1, generator=generator))
        save_encoder(encoder, folder)
        facts = world.encoder.model_dump(include={"dimension", "base", "precision", "fidelity", "rows", "steps"})
        return {**facts, "fingerprint": fingerprint(folder), "passage_fingerprint": passage_fingerprint(folder)}

    return produce(world.home, Encoder, {"damaged": world.encoder.digest}, build)


def test_a_clearly_worse_challenger_is_rejected_before_the_corpus_is_embedded(world: World) -> None:
    worse = damaged(world)
    result = probe(
        rules(world, probe_share=1), world.snapshot, worse, world.encoder, "the serving release", runs(world)
    )
    assert result.finding is not None
    assert result.finding.words.startswith("clearly worse than the serving release already on a pool of ")
    assert result.comparison is not None
    assert result.comparison.queries == 40
    assert 40 < result.passages < world.snapshot.rows


def test_an_equal_challenger_passes_and_the_vectors_of_the_pool_are_computed_once(world: World) -> None:
    better = damaged(world)  # the rival is the damaged one
    result = probe(rules(world, probe_share=1), world.snapshot, better, better, "the base model", runs(world))
    assert result.finding is None
    assert result.comparison is not None
    assert result.comparison.difference == 0
    whole = gather_shards(world.home, better, world.snapshot, 1)
    assert whole.avoided >= result.passages
    assert whole.embedded == world.snapshot.rows - whole.avoided


def test_the_pool_has_the_answers_and_top_passages_of_the_drawn_queries(world: World) -> None:
    result = probe(
        rules(world, probe_share=1, probe_random=0), world.snapshot, world.encoder, world.encoder, "x", runs(world)
    )
    (pool,) = [
        path for path in (world.home / "snapshots").glob("*/manifest.json") if path.parent != world.snapshot.path
    ]
    drawn = set(pq.read_table(pool.parent / "queries.parquet")["query_id"].to_pylist())
    ids = set(pq.read_table(pool.parent / "passages.parquet")["passage_id"].to_pylist())
    expected = {passage for query, passage, _ in QRELS if query in drawn}
    for run in runs(world):
        hits = pq.read_table(run.path / "run.parquet").to_pylist()
        expected |= {hit["passage_id"] for hit in hits if hit["query_id"] in drawn and hit["rank"] <= 2}
    assert len(drawn) == 40
    assert ids == expected
    assert result.passages == len(expected)


def test_a_pool_that_would_be_most_of_the_corpus_is_skipped_with_a_reason(world: World) -> None:
    result = probe(rules(world, probe_share=0.2), world.snapshot, world.encoder, world.encoder, "x", runs(world))
    assert result.comparison is None
    assert "most of the corpus" in result.why


@pytest.mark.parametrize(("queries", "why"), [(0, "switched off"), (19, "19 queries are too few")])
def test_the_probe_is_skipped_with_too_few_queries(world: World, queries: int, why: str) -> None:
    settings = rules(world, probe_share=1, probe_queries=queries)
    result = probe(settings, world.snapshot, damaged(world), world.encoder, "x", runs(world))
    assert result.finding is None
    assert result.why == why


def test_the_probe_compares_the_rankings_of_releases(world: World) -> None:
    """A worse encoder costs nothing where BM25 alone ranks best."""
    settings = rules(world, probe_share=1, ranking="tuned")
    result = probe(settings, world.snapshot, damaged(world), world.encoder, "the base model", runs(world))
    assert result.finding is None
    assert result.comparison is not None
    assert result.comparison.difference == 0
