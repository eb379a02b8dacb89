"""Forgetting passages of a home with synthetic queries, from the structure of passages and from a language model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from chat_server import Chat, chat_server
from file_search import files_with
from forget_world import PASSAGES, QUERIES, SHARDS, settings_of, snapshot_of_night
from marked_home import marks_of
from release_world import publish_unmeasured

from tasks.core.base.files import load
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.base.sections.synthetic import GenerateSettings, SyntheticSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.base.synthetic_receipts import Synthesis
from tasks.core.embedding.shards import gather_shards
from tasks.core.forget.forget import forget, plan_forget
from tasks.core.release.publish import serving
from tasks.core.snapshot.reader import queries
from tasks.core.synthesis.candidates import make_candidates, read_candidates
from tasks.core.synthesis.consistency import PAIRS
from tasks.core.synthesis.synthesize import add_synthetic_pairs
from tasks.core.text.synthetic_queries import is_synthetic
from tasks.core.text.tombstones import add_tombstones
from tasks.core.training.trainer import base_encoder

FORGOTTEN = PASSAGES[1:]  # without the passage that answers the training queries
MARKS = {mark for name in [*FORGOTTEN, *QUERIES] for mark in marks_of(name)}


class Cold(NamedTuple):
    """A home with a release of passages and synthetic queries."""

    settings: Settings
    snapshot: Snapshot  # with the synthetic queries
    synthesis: Synthesis
    chat: Chat


@pytest.fixture(scope="module")
def cold(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[Cold]:
    home = tmp_path_factory.mktemp("cold") / "home"
    with chat_server() as chat:
        settings = settings_of(home).model_copy(
            update={
                "encoder": EncoderSettings(model=str(tiny_model), passage_tokens=48),
                "mining": MiningSettings(heap_mb=256),
                "synthetic": SyntheticSettings(structure=True, top=1, held_out=0.3),
                "generate": GenerateSettings(url=chat.url, model="writer", budget=1_000),
            }
        )
        snapshot, synthesis = add_synthetic_pairs(settings, snapshot_of_night(home, 1))
        encoder = base_encoder(home, snapshot, settings.encoder, EmbeddingSettings())
        embeddings = gather_shards(home, encoder, snapshot, SHARDS)
        publish_unmeasured(settings, encoder, embeddings, snapshot, reason="cold")
        yield Cold(settings, snapshot, synthesis, chat)


def test_synthetic_queries_of_forgotten_passages_are_forgotten_too(cold: Cold) -> None:
    settings, home = cold.settings, cold.settings.home
    made = pq.read_table(cold.synthesis.path / PAIRS).to_pylist()
    lost = [row for row in made if row["passage_id"] in FORGOTTEN]
    assert {row["origin"] for row in lost} >= {"title", "generated"}
    assert any(row["rule"] for row in made)  # also pairs that a rule dropped
    before = set(queries(cold.snapshot)["query_id"].to_pylist())
    answers = set((home / "generated").rglob("*.json"))
    assert {name.partition("/")[0] for name in files_with(home, MARKS)} >= {
        "generated", "synthetic", "snapshots", "milvus"
    }  # fmt: skip

    receipt = forget(settings, FORGOTTEN, QUERIES)
    assert files_with(home, MARKS) == {}
    assert receipt.plan.artifact_counts()["synthetic"] == 1
    assert receipt.plan.artifact_counts()["snapshots"] == 3  # the ingest, its candidates, and both with kept pairs
    release, _ = serving(settings)
    assert release is not None
    kept = set(queries(load(home, Snapshot, release.snapshot))["query_id"].to_pylist())
    assert kept == before - {row["query_id"] for row in lost} - set(QUERIES)
    assert any(map(is_synthetic, kept))
    assert not plan_forget(settings, FORGOTTEN, QUERIES).artifacts

    gone = answers - set((home / "generated").rglob("*.json"))
    assert len(gone) == len(FORGOTTEN)  # the other answers are used again
    sent = len(cold.chat.prompts)
    rest = snapshot_of_night(home, 1, without=[*FORGOTTEN, *QUERIES])
    snapshot, _ = add_synthetic_pairs(settings, rest)  # the next night
    assert len(cold.chat.prompts) == sent
    assert {row["query_id"] for row in lost}.isdisjoint(queries(snapshot)["query_id"].to_pylist())


def test_a_forgotten_synthetic_query_is_not_made_again(tmp_path: Path) -> None:
    snapshot, settings = snapshot_of_night(tmp_path, 1), SyntheticSettings(structure=True)
    first, second, *others = read_candidates(make_candidates(tmp_path, snapshot, settings, {})).to_pylist()
    add_tombstones(tmp_path, [], [first["query_id"]], [second["query"]])
    assert read_candidates(make_candidates(tmp_path, snapshot, settings, {})).to_pylist() == others
