from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

from tasks.core.data.ingest import ingest
from tasks.core.files import produce
from tasks.core.receipts import Encoder, Negatives, Snapshot
from tasks.core.settings import Settings
from tasks.core.training import loop, trainer
from tasks.core.training.batches import Batch, batch_at
from tasks.core.training.encoder import load_encoder
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.settings import TrainingSettings


@pytest.fixture
def settings(tiny_model: Path, collection: Callable[..., Path], tmp_path: Path) -> Settings:
    return Settings(
        home=tmp_path / "home",
        data={"format": "beir", "path": collection()},  # type: ignore[arg-type]
        encoder={"model": str(tiny_model), "passage_tokens": 24},  # type: ignore[arg-type]
        training={"batch_size": 8, "epochs": 2, "learning_rate": 1e-3, "checkpoint_every": 3, "precision": "fp32"},  # type: ignore[arg-type]
        embedding={"precision": "fp32"},  # type: ignore[arg-type]
    )


@pytest.fixture
def snapshot(settings: Settings) -> Snapshot:
    return ingest(settings)[1]


def mined(home: Path) -> Negatives:
    """Two negatives for each training query: the next two passages."""

    def build(folder: Path) -> dict[str, object]:
        rows = [(f"q{n}", f"p{n + step}") for n in range(36) for step in (1, 2)]
        table = pa.table({"query_id": [query for query, _ in rows], "passage_id": [passage for _, passage in rows]})
        pq.write_table(table, folder / "negatives.parquet")
        return {"rows": 72, "round": 0, "queries": 36, "starved": 0, "candidates": 72, "refused": {}}

    return produce(home, Negatives, {"test": 1}, build)


def weights(encoder: Encoder) -> dict[str, np.ndarray]:
    return load_file(encoder.path / "model.safetensors")


def trained(home: Path, snapshot: Snapshot, settings: Settings) -> Encoder:
    return trainer.train(home, trainer.base_encoder(home, snapshot, settings), snapshot, mined(home), settings)


def test_training_brings_queries_nearer_to_their_passages(snapshot: Snapshot, settings: Settings) -> None:
    encoder = trained(settings.home, snapshot, settings)
    assert encoder.steps == 9  # 2 epochs × 36 pairs / 8
    assert np.mean(encoder.loss[-3:]) < np.mean(encoder.loss[:3])
    assert encoder.fingerprint != trainer.base_encoder(settings.home, snapshot, settings).fingerprint
    assert load_encoder(encoder.path).fingerprint == encoder.fingerprint


def test_a_killed_training_goes_on_and_ends_with_the_weights_of_a_straight_one(
    snapshot: Snapshot, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight = trained(tmp_path / "straight", snapshot, settings)

    class Killed(BaseException):
        pass

    def until_step_five(data: TrainingPairs, pairs: np.ndarray, dials: TrainingSettings, step: int) -> Batch:
        if step == 5:
            raise Killed
        return batch_at(data, pairs, dials, step)

    monkeypatch.setattr(loop, "batch_at", until_step_five)
    with pytest.raises(Killed):
        trained(tmp_path / "killed", snapshot, settings)
    resumed_from: list[int] = []

    def counting(data: TrainingPairs, pairs: np.ndarray, dials: TrainingSettings, step: int) -> Batch:
        resumed_from.append(step)
        return batch_at(data, pairs, dials, step)

    monkeypatch.setattr(loop, "batch_at", counting)
    resumed = trained(tmp_path / "killed", snapshot, settings)
    assert resumed_from == [3, 4, 5, 6, 7, 8]
    assert resumed.loss == straight.loss
    assert resumed.fingerprint == straight.fingerprint


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(
    snapshot: Snapshot, settings: Settings, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"training": settings.training.model_copy(update={"seed": 1})})
    one, same, differs = (
        trained(tmp_path / name, snapshot, dials) for name, dials in (("a", settings), ("b", settings), ("c", other))
    )
    assert one.fingerprint == same.fingerprint != differs.fingerprint


def test_dropout_is_off_unless_asked_for_and_not_saved(snapshot: Snapshot, settings: Settings, tmp_path: Path) -> None:
    plain = trained(tmp_path / "plain", snapshot, settings)
    dials = settings.training.model_copy(update={"dropout": 0.5})
    dropped = trained(tmp_path / "dropped", snapshot, settings.model_copy(update={"training": dials}))
    assert plain.fingerprint != dropped.fingerprint
    configs = [json.loads((one.path / "config.json").read_text()) for one in (plain, dropped)]
    assert configs[0]["hidden_dropout_prob"] == configs[1]["hidden_dropout_prob"] == 0.1


def test_separate_encoders_are_trained_apart(snapshot: Snapshot, settings: Settings) -> None:
    apart = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"shared": False})})
    encoder = trained(settings.home, snapshot, apart)
    query, passage = (load_file(encoder.path / side / "model.safetensors") for side in ("query", "passage"))
    assert any((query[name] != passage[name]).any() for name in query)
    model = load_encoder(encoder.path)
    assert not np.allclose(model.encode_queries(["a river"]), model.encode_passages(["a river"]))
