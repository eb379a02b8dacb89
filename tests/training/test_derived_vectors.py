"""Training the query encoder and a passage map: vectors of passages are derived from the trunk's, not encoded."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from small_training import next_passages, stories
from things_and_traits import THINGS

from tasks.core.base.errors import Mismatch, NightshiftError
from tasks.core.base.files import file_digest, partial_folder
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.embedding import derived, shards
from tasks.core.embedding.shards import embed_shard, gather_shards
from tasks.core.embedding.stored_shards import matrix, shard_files
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.snapshot.reader import passage_texts
from tasks.core.training import trainer
from tasks.core.training.dev_evaluation import dev_evaluation
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import make_autocast
from tasks.core.training.stored_trunk import load_trunk

WORLD_SIZE = 2


def settings_of(home: Path, model: Path, **encoder: object) -> Settings:
    chosen = {"model": str(model), "shared": False, "train": "query+map", "passage_tokens": 24, **encoder}
    training = {"batch_size": 8, "max_steps": 6, "learning_rate": 1e-3, "map_learning_rate": 3e-3, "evaluate_every": 0}
    return Settings.model_validate(
        {
            "home": home,
            "encoder": chosen,
            "training": {**training, "hard_negatives": 2, "precision": "fp32", "checkpoint_every": 2},
            "embedding": {"precision": "fp32", "shards": WORLD_SIZE},
        }
    )


@dataclass
class World:
    """A home with a start encoder, its vectors, and an encoder with a trained map."""

    settings: Settings
    snapshot: Snapshot
    negatives: Negatives
    start: Encoder
    vectors: Embeddings
    trained: Encoder

    def train(self, start: Encoder, **encoder: object) -> Encoder:
        settings = self.settings
        if encoder:
            changed = settings.encoder.model_dump() | encoder
            settings = settings.model_copy(update={"encoder": type(settings.encoder).model_validate(changed)})
        return trainer.train(settings.home, start, self.snapshot, self.negatives, settings)


def world_in(home: Path, model: Path) -> World:
    """Make everything in `home`; what it already contains is found there."""
    settings = settings_of(home, model)
    snapshot = stories(settings.home)
    start = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    vectors = gather_shards(settings.home, start, snapshot, WORLD_SIZE)
    negatives = next_passages(settings.home, snapshot)
    trained = trainer.train(settings.home, start, snapshot, negatives, settings)
    return World(settings, snapshot, negatives, start, vectors, trained)


@pytest.fixture(scope="module")
def finished_home(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world_in(tmp_path_factory.mktemp("world") / "home", tiny_model).settings.home


@pytest.fixture
def world(finished_home: Path, tiny_model: Path, tmp_path: Path) -> World:
    return world_in(Path(shutil.copytree(finished_home, tmp_path / "home")), tiny_model)


def stored(embeddings: Embeddings) -> np.ndarray:
    return np.concatenate(
        [
            matrix(pq.read_table(file)["vector"].combine_chunks(), embeddings.dimension)
            for file in shard_files(embeddings)
        ]
    )


def encoded(encoder: Encoder, snapshot: Snapshot) -> np.ndarray:
    return load_encoder(encoder.path).encode_passages(list(passage_texts(snapshot)))


def encode_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a passage was encoded")

    monkeypatch.setattr(shards, "_encode_windows", refuse)


def test_training_keeps_the_trunk_and_changes_query_encoder_and_map(world: World) -> None:
    start, trained = world.start, world.trained
    weights = [
        {side: file_digest(encoder.path / side / "model.safetensors") for side in ("query", "passage")}
        for encoder in (start, trained)
    ]
    assert weights[0]["passage"] == weights[1]["passage"]
    assert weights[0]["query"] != weights[1]["query"]
    assert trained.trunk == start.passage_fingerprint != trained.passage_fingerprint
    assert (start.trunk, trained.precision) == ("", start.precision)
    change = np.abs(encoded(trained, world.snapshot) - encoded(start, world.snapshot))
    assert change.max() > 0.005


def test_dev_evaluations_use_the_mapped_vectors(world: World) -> None:
    """Evaluate the finished encoder as the training evaluated it at its last step."""
    settings = world.settings.training.model_copy(update={"evaluate_every": 40, "max_steps": 40, "epochs": 99})
    changed = world.settings.model_copy(update={"training": settings})
    trained = trainer.train(changed.home, world.start, world.snapshot, world.negatives, changed)
    assert trained.improved
    encoder = load_encoder(trained.path)
    evaluation = dev_evaluation(world.snapshot, "dev", encoder, settings)
    assert evaluation is not None
    autocast = make_autocast(settings, encoder.passage.device)
    expected = evaluation.ndcg(encoder, Ranks(), autocast)
    frozen = evaluation.with_frozen_trunk(encoder, Ranks(), autocast)
    np.testing.assert_allclose(frozen.ndcg(encoder, Ranks(), autocast), expected)
    assert dict(trained.dev)[trained.kept] == pytest.approx(expected.mean())


@pytest.mark.parametrize("vectors", ["float32", "float16"])
def test_derived_vectors_equal_encoded_ones(vectors: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home, snapshot = world.settings.home, world.snapshot
    trunk = gather_shards(home, world.start, snapshot, WORLD_SIZE, vectors=vectors)
    encode_nothing(monkeypatch)
    made = gather_shards(home, world.trained, snapshot, WORLD_SIZE, vectors=vectors)
    assert (made.embedded, made.avoided, made.derived, made.tokens) == (0, snapshot.rows, snapshot.rows, 0)
    assert made.fingerprint == world.trained.passage_fingerprint
    assert made.parents == (world.trained.digest, snapshot.digest, trunk.digest)
    np.testing.assert_allclose(
        stored(made).astype(np.float32), encoded(world.trained, snapshot), atol=1e-6 if vectors == "float32" else 2e-3
    )
    assert made.fidelity == pytest.approx(1, abs=1e-5)
    for rank, (file, parent) in enumerate(zip(shard_files(made), shard_files(trunk), strict=True)):
        metadata = {name.decode(): text.decode() for name, text in pq.read_metadata(file).metadata.items()}
        assert metadata["parent"] == f"{trunk.digest}/{parent.name}"
        assert metadata["parent_digest"] == trunk.digests[rank] == file_digest(parent)


def test_new_passages_are_encoded_by_the_trunk_and_derived(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home = world.settings.home
    before = gather_shards(home, world.trained, world.snapshot, WORLD_SIZE)
    larger = stories(home, things=[*THINGS, "piano"])
    new = larger.rows - world.snapshot.rows
    made = gather_shards(home, world.trained, larger, WORLD_SIZE)
    assert (made.rows, made.embedded, made.derived) == (larger.rows, 0, new)
    trunk = gather_shards(home, world.start, larger, WORLD_SIZE)
    assert (trunk.reused, trunk.embedded, trunk.avoided) == (True, new, world.snapshot.rows)
    np.testing.assert_allclose(stored(made), encoded(world.trained, larger), atol=1e-6)
    assert {row.tobytes() for row in stored(before)} <= {row.tobytes() for row in stored(made)}


def test_a_derivation_killed_between_shards_resumes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home, snapshot = world.settings.home, world.snapshot
    assert embed_shard(home, world.trained, snapshot, 0, WORLD_SIZE) == snapshot.rows // WORLD_SIZE
    (folder,) = (home / Embeddings.shelf).glob(".*.partial")
    first = folder / f"shard-00000-of-0000{WORLD_SIZE}.parquet"
    content, modified = first.read_bytes(), first.stat().st_mtime_ns
    made = gather_shards(home, world.trained, snapshot, WORLD_SIZE)
    assert folder == partial_folder(home, Embeddings, made.digest)
    sealed = made.path / first.name
    assert (sealed.read_bytes(), sealed.stat().st_mtime_ns) == (content, modified)
    np.testing.assert_allclose(stored(made), encoded(world.trained, snapshot), atol=1e-6)


def test_vectors_of_another_trunk_are_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home, snapshot = world.settings.home, world.snapshot
    shuffled = lambda self, rows: np.roll(map_rows(self, rows), 1, axis=0)  # noqa: E731
    map_rows: Callable[..., np.ndarray] = derived.Deriver.derive
    monkeypatch.setattr(derived.Deriver, "derive", shuffled)
    with pytest.raises(Mismatch, match=r"cosine of .*less than 0\.999"):
        gather_shards(home, world.trained, snapshot, WORLD_SIZE)


def test_a_second_derived_training_composes_on_the_trunk(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    home, snapshot = world.settings.home, world.snapshot
    encode_nothing(monkeypatch)
    second = world.train(world.trained)
    assert second.trunk == world.trained.trunk == world.start.passage_fingerprint
    assert second.passage_fingerprint != world.trained.passage_fingerprint
    made = gather_shards(home, second, snapshot, WORLD_SIZE)
    assert made.parents[2] == world.vectors.digest  # the trunk's vectors, not those of the first map
    np.testing.assert_allclose(stored(made), encoded(second, snapshot), atol=1e-6)
    queries_only = world.train(second, train="query")
    assert (queries_only.trunk, queries_only.passage_fingerprint) == (second.trunk, second.passage_fingerprint)


def test_full_training_from_a_derived_encoder_makes_another_trunk(world: World) -> None:
    full = world.train(world.trained, train="both")
    assert full.trunk not in ("", world.trained.trunk)
    made = gather_shards(world.settings.home, full, world.snapshot, WORLD_SIZE)
    np.testing.assert_allclose(stored(made), encoded(full, world.snapshot), atol=1e-6)


@pytest.mark.parametrize("encoder", [{"map_rank": 3}, {"map_hidden": 8}])
def test_other_kinds_of_map_train_as_well(encoder: dict[str, object], world: World) -> None:
    trained = world.train(world.start, **encoder)
    assert trained.passage_fingerprint not in (world.trained.passage_fingerprint, world.start.passage_fingerprint)
    made = gather_shards(world.settings.home, trained, world.snapshot, WORLD_SIZE)
    np.testing.assert_allclose(stored(made), encoded(trained, world.snapshot), atol=1e-6)


def test_adapters_are_added_to_the_query_encoder_only(world: World) -> None:
    pytest.importorskip("peft")
    trained = world.train(world.start, lora_rank=2)
    assert trained.trunk == world.start.passage_fingerprint
    assert trained.fingerprint != world.trained.fingerprint


def test_settings_that_change_the_trunk_are_refused(world: World) -> None:
    with pytest.raises(NightshiftError, match=r"keeps the vectors of the passage encoder.*start = \"base\""):
        world.train(world.start, passage_tokens=12)


def test_stored_vectors_of_missing_passages_are_refused(world: World) -> None:
    with pytest.raises(Mismatch, match="1 of 1 training passages"):
        load_trunk([world.vectors], np.array([b"0" * 16], "S16"))


@pytest.mark.slow
def test_two_processes_train_the_same_map_as_a_single_process(world: World, tmp_path: Path) -> None:
    training = world.settings.training.model_copy(update={"processes": 2})
    home = Path(shutil.copytree(world.settings.home, tmp_path / "two"))
    shutil.rmtree(home / Encoder.shelf / world.trained.digest)
    settings = world.settings.model_copy(update={"home": home, "training": training})
    double = trainer.train(home, world.start, world.snapshot, world.negatives, settings)
    assert not double.reused
    assert double.trunk == world.trained.trunk
    np.testing.assert_allclose(double.loss, world.trained.loss, rtol=1e-4)
    np.testing.assert_allclose(encoded(double, world.snapshot), encoded(world.trained, world.snapshot), atol=1e-3)
