from __future__ import annotations

import json
import logging
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from small_snapshot import snapshot_of
from small_training import next_passages, small_settings, stories, trained

from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import load_encoder
from tasks.core.training import dev_decisions as dev
from tasks.core.training import loop, trainer
from tasks.core.training.batches import Batch, batch_at
from tasks.core.training.checkpoint import Progress
from tasks.core.training.dev_evaluation import dev_evaluation
from tasks.core.training.pairs import TrainingPairs
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import rate


@pytest.fixture
def settings(tiny_model: Path, tmp_path: Path) -> Settings:
    return small_settings(tmp_path / "home", tiny_model)


@pytest.fixture
def snapshot(settings: Settings) -> Snapshot:
    return stories(settings.home)


def having(settings: Settings, home: Path | None = None, **training: object) -> Settings:
    changed = settings.training.model_copy(update=training)
    return settings.model_copy(update={"training": changed, "home": home or settings.home})


def weights_equal(left: Encoder, right: Encoder) -> bool:
    ours, theirs = weights(left), weights(right)
    return ours.keys() == theirs.keys() and all((ours[name] == theirs[name]).all() for name in ours)


def weights(encoder: Encoder) -> dict[str, np.ndarray]:
    return load_file(encoder.path / "model.safetensors")


def test_training_moves_queries_closer_to_their_passages(snapshot: Snapshot, settings: Settings) -> None:
    encoder = trained(snapshot, settings)
    assert encoder.steps == encoder.kept == 9  # 2 epochs × 36 pairs / 8
    assert np.mean(encoder.loss[-3:]) < np.mean(encoder.loss[:3])
    assert (
        encoder.fingerprint
        != trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding).fingerprint
    )
    assert load_encoder(encoder.path).fingerprint == encoder.fingerprint
    assert not list(encoder.path.glob("*checkpoint*"))


class Killed(BaseException):
    pass


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"dropout": 0.3, "memory_tokens": 128, "more_positives": 1},
        {"evaluate_every": 2, "patience": 9, "learning_rate": 3e-2},
    ],
    ids=["plain", "cached with dropout", "looking at dev queries"],
)
def test_a_killed_training_resumes_to_the_same_weights(
    snapshot: Snapshot, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: dict[str, object]
) -> None:
    straight = trained(snapshot, having(settings, tmp_path / "straight", **changed))
    steps: list[int] = []

    def until_step_five(data: TrainingPairs, pairs: np.ndarray, changed: TrainingSettings, step: int) -> Batch:
        steps.append(step)
        if steps == [0, 1, 2, 3, 4, 5]:
            raise Killed
        return batch_at(data, pairs, changed, step)

    monkeypatch.setattr(loop, "batch_at", until_step_five)
    with pytest.raises(Killed):
        trained(snapshot, having(settings, tmp_path / "killed", **changed))
    resumed = trained(snapshot, having(settings, tmp_path / "killed", **changed))
    assert steps == [0, 1, 2, 3, 4, 5, 3, 4, 5, 6, 7, 8]
    assert (resumed.loss, resumed.dev, resumed.kept) == (straight.loss, straight.dev, straight.kept)
    assert resumed.fingerprint == straight.fingerprint


def test_equal_seeds_give_equal_weights_and_different_seeds_different_weights(
    snapshot: Snapshot, settings: Settings, tmp_path: Path
) -> None:
    first, same, differs = (
        trained(snapshot, having(settings, tmp_path / name, seed=seed)) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first.fingerprint == same.fingerprint != differs.fingerprint


def test_a_batch_in_memory_chunks_has_the_loss_of_the_whole_batch(snapshot: Snapshot, settings: Settings) -> None:
    whole = trained(snapshot, settings)
    cached = trained(snapshot, having(settings, settings.home.parent / "cached", memory_tokens=128))
    np.testing.assert_allclose(cached.loss, whole.loss, rtol=1e-4)


@pytest.mark.parametrize("loss", ["triplet", "supcon"])
def test_every_loss_trains(snapshot: Snapshot, settings: Settings, loss: str) -> None:
    encoder = trained(snapshot, having(settings, loss=loss, learning_rate=3e-3))
    assert np.mean(encoder.loss[-3:]) < np.mean(encoder.loss[:3])


def test_dropout_is_off_by_default_and_not_saved(snapshot: Snapshot, settings: Settings, tmp_path: Path) -> None:
    plain = trained(snapshot, having(settings, tmp_path / "plain"))
    dropped = trained(snapshot, having(settings, tmp_path / "dropped", dropout=0.5))
    assert plain.fingerprint != dropped.fingerprint
    configs = [json.loads((encoder.path / "config.json").read_text()) for encoder in (plain, dropped)]
    assert configs[0]["hidden_dropout_prob"] == configs[1]["hidden_dropout_prob"] == 0.1


def test_separate_encoders_get_different_weights(snapshot: Snapshot, settings: Settings) -> None:
    apart = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"shared": False})})
    encoder = trained(snapshot, apart)
    query, passage = (load_file(encoder.path / side / "model.safetensors") for side in ("query", "passage"))
    assert any((query[name] != passage[name]).any() for name in query)
    model = load_encoder(encoder.path)
    assert not np.allclose(model.encode_queries(["a river"]), model.encode_passages(["a river"]))


def test_training_ends_early_and_the_best_weights_on_dev_queries_are_kept(
    snapshot: Snapshot, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    shaky = having(settings, evaluate_every=1, patience=2, epochs=20)
    with caplog.at_level(logging.INFO, "nightshift.training"):
        encoder = trained(snapshot, shaky)
    assert encoder.improved
    assert [step for step, _ in encoder.dev] == list(range(encoder.steps + 1))
    after = dict(encoder.dev)
    assert encoder.steps == encoder.kept + 2 < 90
    assert after[encoder.kept] == max(after.values())
    figures = f"dev nDCG@10 {after[encoder.kept]:.4f}; {after[0]:.4f} at step 0"
    assert f"Keeping the weights of step {encoder.kept} ({figures})" in caplog.text
    saved = load_encoder(encoder.path)
    at = dev_evaluation(snapshot, "dev", saved, shaky.training)
    assert at is not None
    assert at.ndcg(saved, Ranks(), nullcontext).mean() == pytest.approx(after[encoder.kept])


def test_a_training_that_falls_below_its_start_stops_and_keeps_the_weights_of_step_0(
    snapshot: Snapshot, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    good = trained(snapshot, having(settings, learning_rate=3e-3, epochs=8))
    harmful = having(settings, evaluate_every=1, patience=2, learning_rate=0.5, epochs=20, warmup=0.0)
    mined = next_passages(settings.home, snapshot)
    worse = trainer.train(settings.home, good, snapshot, mined, harmful, older=None)
    assert not worse.improved
    assert (worse.kept, worse.steps) == (0, 2)  # of 90
    start, *later = (value for _, value in worse.dev)
    assert max(later) < start - 0.2
    assert weights_equal(worse, good)
    words = f"Training did not improve on step 0 (dev nDCG@10 {start:.4f}): the best later step is"
    assert words in caplog.text
    assert "Keeping the weights of step 6" not in caplog.text


def test_a_training_without_significant_change_is_left_to_the_gate(snapshot: Snapshot, settings: Settings) -> None:
    idle = trained(snapshot, having(settings, evaluate_every=3, learning_rate=1e-9))
    assert idle.improved
    assert idle.kept > 0


def test_without_dev_queries_the_weights_of_the_last_step_are_kept() -> None:
    progress = Progress(losses=[1.0] * 5)
    assert not dev.is_finished(progress, patience=1)
    assert dev.step_to_keep(progress) == 5
    assert dev.best_step(Progress(dev=[(0, 0.9), (2, 0.5), (4, 0.6), (6, 0.6)])) == 4


def test_consecutive_evaluations_below_the_start_stop_training() -> None:
    progress = Progress(losses=[1.0] * 3, dev=[(0, 0.9), (1, 0.1), (2, 0.2), (3, 0.3)], best={}, below=[1, 2, 3])
    assert dev.is_finished(progress, patience=3)
    assert not dev.is_finished(progress, patience=4)
    progress.below = [1, 2]
    assert not dev.is_finished(progress, patience=3)


def test_with_few_dev_queries_only_a_large_drop_counts() -> None:
    start = np.array([1.0, 0.5, 0.6, 1.0, 0.4, 1.0, 0.3, 0.9, 1.0, 0.6])
    assert not dev.is_below(start - np.eye(10)[0] * 0.4, start)  # one positive fell from rank 1 to 2 or 3
    assert not dev.is_below(start - 0.05, start)  # with ten queries, even a small loss on each is not significant
    assert dev.is_below(np.tile(start - 0.05, 2), np.tile(start, 2))
    assert not dev.is_below(start, start)
    assert not dev.is_below(np.minimum(start + 0.1, 1), start)
    assert dev.is_below(start * 0.1, start)
    assert not dev.is_below(start * 0.1, np.array([]))  # resumed from a checkpoint of an earlier version


def test_forgetting_is_measured_on_the_older_snapshot(snapshot: Snapshot, settings: Settings) -> None:
    older = stories(settings.home, ["kitten", "rocket", "pepper", "anchor", "candle"], ["green", "tall", "quick"])
    encoder = trained(snapshot, having(settings, replay=0.25), older=older)
    assert encoder.forgetting is not None
    assert all(0 < value <= 1 for value in encoder.forgetting)
    assert encoder.steps == 12  # 72 pairs of this snapshot; each batch has 6 of them and 2 replayed pairs
    assert older.digest in encoder.parents
    alone = trained(snapshot, settings, older=snapshot)
    assert alone.forgetting is None


def test_a_loss_that_is_not_finite_stops_training(snapshot: Snapshot, settings: Settings) -> None:
    plain = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"normalize": False})})
    with pytest.raises(NightshiftError, match="lower \\[training\\] learning_rate"):
        trained(snapshot, having(plain, learning_rate=1e18, warmup=0.0, max_grad_norm=1e30))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero() -> None:
    assert [rate(step, 10, 0.2) for step in range(10)] == [1 / 2, 1, *(n / 8 for n in range(8, 0, -1))]


def test_speed_and_memory_settings_do_not_change_the_encoder(snapshot: Snapshot, settings: Settings) -> None:
    encoder = trained(snapshot, settings)
    again = trained(snapshot, having(settings, memory_tokens=999, checkpoint_every=1))
    assert again.reused
    assert again.digest == encoder.digest


def test_a_snapshot_without_dev_queries_is_trained_without_evaluations(settings: Settings) -> None:
    texts = {f"p{n}": f"a story {n}" for n in range(12)}
    few = snapshot_of(
        settings.home, texts, {f"q{n}": f"{n}" for n in range(12)}, [(f"q{n}", f"p{n}", "train") for n in range(12)]
    )
    base = trainer.base_encoder(settings.home, few, settings.encoder, settings.embedding)
    changed = having(settings, evaluate_every=1)
    assert trainer.train(settings.home, base, few, next_passages(settings.home, few), changed).dev == ()
