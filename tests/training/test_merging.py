from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from small_models import made
from small_training import next_passages, small_settings, stories

from tasks.core.base.merge import TRAINED, Merge
from tasks.core.base.receipts import Encoder, Snapshot
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec
from tasks.core.report.sentences import describe_training
from tasks.core.training import loop, trainer
from tasks.core.training.merge_choice import choose, late_steps
from tasks.core.training.merging import linear, mean, spherical


class Killed(BaseException):
    pass


def having(settings: Settings, **training: object) -> Settings:
    return settings.model_copy(update={"training": settings.training.model_copy(update=training)})


def weights(encoder: Encoder) -> dict[str, np.ndarray]:
    return load_file(encoder.path / "model.safetensors")


def weights_of(*values: float) -> dict[str, torch.Tensor]:
    return {"w": torch.tensor(values)}


@pytest.mark.parametrize("average", [linear, spherical])
def test_an_average_of_equal_weights_is_those_weights(average: object) -> None:
    drawn = {"w": torch.randn(7, 5, generator=torch.manual_seed(0)), "zero": torch.zeros(3)}
    for share in (0.0, 0.3, 1.0):
        merged = average(drawn, {name: weight.clone() for name, weight in drawn.items()}, share)  # type: ignore[operator]
        assert all(torch.equal(merged[name], drawn[name]) for name in drawn)


def test_halfway_between_orthogonal_weights() -> None:
    left, right = weights_of(2.0, 0.0), weights_of(0.0, 2.0)
    assert linear(left, right, 0.5)["w"].tolist() == [1.0, 1.0]
    assert spherical(left, right, 0.5)["w"].tolist() == pytest.approx([math.sqrt(2), math.sqrt(2)])  # of length 2
    third = spherical(left, right, 1 / 3)["w"]
    assert third.tolist() == pytest.approx([2 * math.cos(math.pi / 6), 2 * math.sin(math.pi / 6)])


def test_the_share_is_that_of_the_right_weights() -> None:
    left, right = weights_of(1.0, 3.0), weights_of(2.0, -1.0)
    for average in (linear, spherical):
        assert average(left, right, 0.0)["w"].tolist() == pytest.approx([1.0, 3.0])
        assert average(left, right, 1.0)["w"].tolist() == pytest.approx([2.0, -1.0])
    assert linear(left, right, 0.75)["w"].tolist() == [1.75, 0.0]
    assert spherical(weights_of(1.0, 1.0), weights_of(-1.0, -1.0), 0.5)["w"].tolist() == [0.0, 0.0]  # opposite
    assert mean([left, right, weights_of(3.0, 1.0)])["w"].tolist() == [2.0, 1.0]


def test_an_average_is_kept_only_if_its_gain_exceeds_the_standard_error() -> None:
    trained = np.full(100, 0.5)
    wins = trained + np.where(np.arange(100) < 10, 0.2, 0.0)  # mean gain 0.02, standard error 0.006
    luck = trained + np.select([np.arange(100) < 2, np.arange(100) < 3], [0.4, -0.3])  # 0.005 and 0.0064
    assert choose({TRAINED: trained, "a": luck}).kept == TRAINED
    assert choose({TRAINED: trained, "a": luck, "b": wins}).kept == "b"
    assert choose({TRAINED: trained, "a": trained - 0.1}).kept == TRAINED
    assert choose({TRAINED: trained, "a": trained}).kept == TRAINED
    chosen = choose({TRAINED: trained, "b": wins, "c": wins})
    assert (chosen.kept, chosen.queries) == ("b", 100)
    assert chosen.ndcg == pytest.approx({TRAINED: 0.5, "b": 0.52, "c": 0.52})
    assert "b gains +0.0200 nDCG@10 (standard error 0.0060)" in chosen.why
    assert choose({TRAINED: trained}).kept == TRAINED


def test_weights_of_late_steps() -> None:
    assert late_steps(10) == {6, 8, 10}
    assert late_steps(1) == {1}


def merging(home: Path, model: Path, **training: object) -> Settings:
    return small_settings(
        home, model, **{"merge": "dev", "evaluate_every": 3, "patience": 9, "learning_rate": 1e-4, **training}
    )


def run(settings: Settings, snapshot: Snapshot, **merge_with: Encoder) -> Encoder:
    base = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    mined = next_passages(settings.home, snapshot)
    return trainer.train(settings.home, base, snapshot, mined, settings, merge_with=merge_with)


@pytest.fixture
def many_dev_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the twelve dev queries of `stories` choose."""
    monkeypatch.setattr(loop, "MIN_QUERIES", 10)


@pytest.fixture
def prefer(monkeypatch: pytest.MonkeyPatch, many_dev_queries: None) -> object:
    """Return a function that makes every merge keep the candidate with this text in its name."""

    def prefer(text: str) -> None:
        def chosen(values: dict[str, np.ndarray]) -> Merge:
            merge = choose(values)
            return merge.model_copy(update={"kept": next(name for name in values if text in name)})

        monkeypatch.setattr("tasks.core.training.merge_choice.choose", chosen)

    return prefer


def test_the_kept_average_is_stored_and_nothing_else(tiny_model: Path, tmp_path: Path, prefer: object) -> None:
    prefer("50%")  # type: ignore[operator]
    settings = merging(tmp_path / "merged", tiny_model)
    snapshot = stories(settings.home)
    base = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    merged = run(settings, snapshot)
    plain = run(having(settings, merge="none"), snapshot)
    assert merged.merge is not None
    assert merged.merge.kept == "50% trained, rest the start"
    assert set(merged.merge.ndcg) >= {
        TRAINED,
        merged.merge.kept,
        "75% trained, rest the start",
        "the mean of late steps",
    }
    assert plain.merge is None
    assert merged.kept == plain.kept
    start, end, stored = weights(base), weights(plain), weights(merged)
    for name in stored:
        np.testing.assert_allclose(stored[name], (start[name] + end[name]) / 2, atol=1e-6)
    assert merged.fingerprint not in (plain.fingerprint, base.fingerprint)
    assert "Merging kept an average (50% trained, rest the start): on 12 dev queries" in describe_training(merged)
    assert sorted(file.name for file in merged.path.iterdir()) == sorted(file.name for file in plain.path.iterdir())


def test_the_trained_weights_are_kept_unchanged_without_a_significant_gain(
    tiny_model: Path, tmp_path: Path, prefer: object
) -> None:
    prefer(TRAINED)  # type: ignore[operator]
    settings = merging(tmp_path, tiny_model, max_steps=4)
    snapshot = stories(settings.home)
    merged, plain = run(settings, snapshot), run(having(settings, merge="none"), snapshot)
    assert merged.digest != plain.digest
    assert merged.fingerprint == plain.fingerprint


def test_half_keeps_the_mean_with_the_start_without_dev_queries(tiny_model: Path, tmp_path: Path) -> None:
    settings = merging(tmp_path, tiny_model, merge="half", evaluate_every=0)
    snapshot = stories(settings.home)
    base = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    merged, plain = run(settings, snapshot), run(having(settings, merge="none"), snapshot)
    assert merged.merge == Merge(kept="50% trained, rest the start", why='set by [training] merge = "half"')
    start, end, stored = weights(base), weights(plain), weights(merged)
    assert all(np.allclose(stored[name], (start[name] + end[name]) / 2, atol=1e-6) for name in stored)


@pytest.mark.parametrize("kind", [{}, {"map_rank": 2}, {"map_hidden": 3}])
def test_the_mean_of_two_maps_leaves_the_trunk(tiny_model: Path, tmp_path: Path, kind: dict[str, int]) -> None:
    chosen = {"model": str(tiny_model), "passage_tokens": 24, "shared": False, "train": "query+map", **kind}
    plain = having(small_settings(tmp_path, tiny_model), map_learning_rate=1e-2).model_copy(
        update={"encoder": EncoderSettings.model_validate(chosen)}
    )
    snapshot, halved = stories(plain.home), having(plain, merge="half")
    mined = next_passages(plain.home, snapshot)
    start = trainer.base_encoder(plain.home, snapshot, plain.encoder, plain.embedding)
    for _ in range(2):  # the first start has no map
        end, merged = (trainer.train(plain.home, start, snapshot, mined, settings) for settings in (plain, halved))
        assert merged.merge is not None
        assert merged.merge.kept == "50% trained, rest the start"
        before, after, mean_of_both = (map_of(encoder) for encoder in (start, end, merged))
        assert not np.allclose(after, before, atol=1e-3)
        np.testing.assert_allclose(mean_of_both, (before + after) / 2, atol=1e-5)
        assert end.trunk == merged.trunk
        start = merged


def map_of(encoder: Encoder) -> np.ndarray:
    """Return W and b of an encoder's map, (width, width + 1); the identity if it has none."""
    passage_map = DualEncoder(encoder.path, read_spec(encoder.path)).passage.passage_map
    if passage_map is None:
        return np.eye(encoder.dimension, encoder.dimension + 1)
    return np.concatenate([passage_map.matrix().detach(), passage_map.bias.detach()[:, None]], axis=1)


def test_with_few_dev_queries_nothing_is_merged(tiny_model: Path, tmp_path: Path) -> None:
    settings = merging(tmp_path, tiny_model, max_steps=2)
    merge = run(settings, stories(settings.home)).merge
    assert merge is not None
    assert (merge.kept, merge.ndcg) == (TRAINED, {})
    assert "fewer than 20 dev queries" in merge.why


def test_encoders_of_another_shape_are_left_out(tiny_model: Path, tmp_path: Path, many_dev_queries: None) -> None:
    settings = merging(tmp_path / "home", tiny_model, max_steps=2)
    snapshot = stories(settings.home)
    wide = EncoderSettings(model=str(made("bert", tiny_model, tmp_path / "wide", hidden=48)), passage_tokens=24)
    other = trainer.base_encoder(settings.home, snapshot, wide, settings.embedding)
    same_shape = run(having(settings, seed=5), snapshot)
    merge = run(settings, snapshot, wide=other, alike=same_shape).merge
    assert merge is not None
    assert "75% trained, rest alike" in merge.ndcg
    assert not any("wide" in name for name in merge.ndcg)


def test_adapters_are_merged_into_the_weights_first(tiny_model: Path, tmp_path: Path, prefer: object) -> None:
    pytest.importorskip("peft")
    settings = merging(tmp_path, tiny_model, learning_rate=1e-3)
    lora = EncoderSettings(model=str(tiny_model), passage_tokens=24, lora_rank=2)
    settings = settings.model_copy(update={"encoder": lora})
    snapshot = stories(settings.home)
    base = trainer.base_encoder(settings.home, snapshot, lora, settings.embedding)
    plain = run(having(settings, merge="none"), snapshot)
    start, end = weights(base), weights(plain)
    for text, share in ((TRAINED, 1.0), ("50%", 0.5)):
        prefer(text)  # type: ignore[operator]
        stored = weights(run(having(settings, checkpoint_every=4, merge_queries=300 + int(share)), snapshot))
        assert stored.keys() == end.keys()
        for name in stored:
            np.testing.assert_allclose(stored[name], (1 - share) * start[name] + share * end[name], atol=1e-6)
        unchanged = [name for name in end if (end[name] == start[name]).all()]
        assert unchanged
        assert all((stored[name] == start[name]).all() for name in unchanged)


def test_a_merge_killed_at_any_candidate_resumes_to_the_same_bytes(
    tiny_model: Path, tmp_path: Path, prefer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    prefer("late")  # type: ignore[operator]
    straight = merging(tmp_path / "straight", tiny_model)
    killed = merging(tmp_path / "killed", tiny_model)
    expected = run(straight, stories(straight.home))
    merge_weights, steps = loop.merge_weights, list[int]()

    def kill_at_second(*arguments: object) -> Merge:
        *before, evaluate = arguments
        calls = iter([False, True])

        def evaluated() -> np.ndarray:
            if next(calls):
                raise Killed
            values: np.ndarray = evaluate()  # type: ignore[operator]
            return values

        return merge_weights(*before, evaluated)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(loop, "merge_weights", kill_at_second)
        with pytest.raises(Killed):
            run(killed, stories(killed.home))
    batch_at = loop.batch_at
    monkeypatch.setattr(loop, "batch_at", lambda *inputs: [steps.append(inputs[-1]), batch_at(*inputs)][1])
    resumed = run(killed, stories(killed.home))
    assert steps == []  # no step is repeated
    assert resumed.fingerprint == expected.fingerprint
    assert (resumed.merge, resumed.loss, resumed.dev) == (expected.merge, expected.loss, expected.dev)
    assert resumed.merge is not None
    assert resumed.merge.kept == "the mean of late steps"


def test_the_key_of_a_training_is_unchanged_by_default(tiny_model: Path, tmp_path: Path) -> None:
    settings = small_settings(tmp_path, tiny_model)
    recipe = settings.training.recipe()
    assert not {"merge", "merge_queries", "minutes"} & recipe.keys()
    assert having(settings, merge_queries=7).training.recipe() == recipe
    assert having(settings, merge="dev").training.recipe() == {**recipe, "merge": "dev", "merge_queries": 300}
