"""A training with a limit of steps mines for, and trains on, a draw of the queries."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from small_snapshot import snapshot_of
from small_training import small_settings, stories

from tasks.core.base.receipts import Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.mining.mine import mine
from tasks.core.retrieval.bm25 import build_index, search_bm25
from tasks.core.snapshot.drawn_queries import drawn_queries
from tasks.core.snapshot.reader import judged, qrels
from tasks.core.training import trainer
from tasks.core.training.pairs import load_pairs


def ids(snapshot: Snapshot, pairs: int) -> set[str]:
    return set(drawn_queries(snapshot, pairs).queries["query_id"].to_pylist())


def mined(home: Path, snapshot: Snapshot, settings: Settings) -> Negatives:
    mining, pairs = settings.mining, settings.training.pairs_used
    index = build_index(home, snapshot, mining)
    run = search_bm25(home, index, drawn_queries(snapshot, pairs).queries, mining.depth, mining)
    return mine(home, snapshot, [("bm25", run)], None, None, 0, mining, pairs=pairs)


def test_as_many_queries_are_drawn_as_the_pairs_need(tmp_path: Path) -> None:
    qrels_of = [(f"q{n}", f"p{n + more}", "train") for n in range(10) for more in range(2)]
    texts = {f"p{n}": f"text {n}" for n in range(11)}
    snapshot = snapshot_of(tmp_path, texts, {f"q{n}": f"query {n}" for n in range(10)}, qrels_of)
    drawn = drawn_queries(snapshot, 7)
    assert len(drawn.queries) == 4  # two pairs each
    assert set(drawn.qrels["query_id"].to_pylist()) == set(drawn.queries["query_id"].to_pylist())
    assert len(drawn.qrels) == 8
    assert drawn.queries["query_id"].to_pylist() == sorted(drawn.queries["query_id"].to_pylist())
    for everything in (0, 20, 21):
        assert drawn_queries(snapshot, everything).queries.equals(judged(snapshot, "train"))
        assert drawn_queries(snapshot, everything).qrels.equals(qrels(snapshot, "train"))


def test_a_draw_repeats_for_its_snapshot_and_differs_between_snapshots(tmp_path: Path) -> None:
    first, other = stories(tmp_path), stories(tmp_path, traits=["quick", "slow", "loud", "calm", "old", "young"])
    assert ids(first, 8) == ids(first, 8)
    assert ids(first, 8) != ids(other, 8)


@pytest.mark.parametrize(
    ("training", "pairs"),
    [
        ({"max_steps": 0}, 0),
        ({"max_steps": 3, "batch_size": 4, "epochs": 1}, 12),
        ({"max_steps": 3, "batch_size": 4, "epochs": 9}, 12),
        ({"max_steps": 3, "batch_size": 4, "epochs": 0.5}, 24),  # so that half of them are enough for the steps
    ],
)
def test_the_pairs_used_follow_from_the_limit_of_steps(
    training: dict[str, float], pairs: int, tiny_model: Path, tmp_path: Path
) -> None:
    assert small_settings(tmp_path, tiny_model, **training).training.pairs_used == pairs


@pytest.mark.parametrize("epochs", [1, 0.6])
def test_a_limited_training_mines_for_and_trains_on_its_draw_only(
    epochs: float, tiny_model: Path, tmp_path: Path
) -> None:
    settings = small_settings(tmp_path, tiny_model, max_steps=2, epochs=epochs)
    snapshot = stories(tmp_path)
    negatives = mined(tmp_path, snapshot, settings)
    of_query = set(pq.read_table(negatives.path / "negatives.parquet")["query_id"].to_pylist())
    assert of_query == ids(snapshot, settings.training.pairs_used)
    assert len(of_query) < snapshot.splits["train"]
    base = trainer.base_encoder(tmp_path, snapshot, settings.encoder, settings.embedding)
    encoder = trainer.train(tmp_path, base, snapshot, negatives, settings)
    assert encoder.steps == 2
    data = load_pairs(snapshot, negatives, DualEncoder(base.path, read_spec(base.path)), settings.training)
    assert set(data.pairs[:, 0].tolist()) == set(data.negatives) == set(range(len(of_query)))


def test_repeated_texts_in_a_draw_do_not_shorten_the_training(tiny_model: Path, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, tiny_model, max_steps=2, epochs=1)
    texts = {f"p{n}": f"the story of number {n}" for n in range(8)}
    queries = {f"q{n}": f"what is number {n % 4}" for n in range(40)}
    snapshot = snapshot_of(tmp_path, texts, queries, [(f"q{n}", f"p{n % 4}", "train") for n in range(40)])
    negatives = mined(tmp_path, snapshot, settings)
    base = trainer.base_encoder(tmp_path, snapshot, settings.encoder, settings.embedding)
    assert trainer.train(tmp_path, base, snapshot, negatives, settings).steps == 2


def test_without_a_smaller_draw_negatives_keep_their_name(tiny_model: Path, tmp_path: Path) -> None:
    snapshot = stories(tmp_path)
    unlimited = mined(tmp_path, snapshot, small_settings(tmp_path, tiny_model))
    ample = mined(tmp_path, snapshot, small_settings(tmp_path, tiny_model, max_steps=5))  # 40 pairs; there are 36
    limited = mined(tmp_path, snapshot, small_settings(tmp_path, tiny_model, max_steps=2))
    assert ample.digest == unlimited.digest != limited.digest
