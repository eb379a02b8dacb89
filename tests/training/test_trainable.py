from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_models import KINDS, made

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import (
    DualEncoder,
    EncoderSpec,
    fingerprint,
    load_encoder,
    save_encoder,
    start_from,
)
from tasks.core.encoder.tower import Tower
from tasks.core.training.trainable import make_trainable, spec_to_train

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 30]


def started(base: Path, folder: Path, **settings: object) -> DualEncoder:
    folder.mkdir()
    encoder_settings = EncoderSettings(**settings)  # type: ignore[arg-type]
    encoder = start_from(base, EncoderSpec.of(encoder_settings, "fp32"), folder)
    make_trainable(encoder, encoder_settings)
    return encoder


def trained(tower: Tower) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in tower.named_parameters() if parameter.requires_grad}


def step(*towers: Tower) -> None:
    """Take two steps of gradient descent on an arbitrary loss."""
    for _ in range(2):  # the first step changes only B of an adapter, because B starts at zero
        for tower in towers:
            tower.zero_grad()
            tower(tower.tokenize(TEXTS), 64)[:, :3].sum().backward()
            with torch.no_grad():
                for parameter in trained(tower).values():
                    parameter -= 0.5 * parameter.grad


def vectors(encoder: DualEncoder) -> np.ndarray:
    return np.concatenate([encoder.encode_queries(TEXTS), encoder.encode_passages(TEXTS)])


@pytest.mark.parametrize("kind", KINDS)
def test_only_adapters_are_trained_and_the_saved_model_is_an_ordinary_model(
    kind: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = made(kind, tiny_model, tmp_path / "base")
    encoder = started(base, tmp_path / "encoder", lora_rank=2)
    before = {
        name: parameter.clone() for name, parameter in encoder.passage.named_parameters() if not parameter.requires_grad
    }
    untouched = vectors(encoder)
    assert trained(encoder.passage)
    assert all(".lora_" in name for name in trained(encoder.passage))
    step(encoder.passage)
    assert all(
        parameter.grad is None and torch.equal(before[name], parameter)
        for name, parameter in encoder.passage.named_parameters()
        if name in before
    )
    adapted = vectors(encoder)
    assert np.abs(adapted - untouched).max() > 1e-3
    (tmp_path / "saved").mkdir()
    save_encoder(encoder, tmp_path / "saved")
    names = [set(load_file(tmp_path / name / "model.safetensors")) for name in ("encoder", "saved")]
    assert names[0] == names[1]
    np.testing.assert_allclose(vectors(load_encoder(tmp_path / "saved")), adapted, atol=1e-5)


def test_sentence_transformers_loads_a_model_trained_with_adapters(tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = started(tiny_model, tmp_path / "encoder", lora_rank=2, shared=False)
    step(*encoder.towers.values())
    save_encoder(encoder, tmp_path / "encoder")
    theirs = SentenceTransformer(str(tmp_path / "encoder"), device="cpu", local_files_only=True)
    ours = load_encoder(tmp_path / "encoder")
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.encode_passages(TEXTS), theirs.encode_document(TEXTS), atol=1e-5, rtol=0)


def test_only_the_named_layers_get_adapters_and_a_projection_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    tower = started(tiny_model, tmp_path / "a", lora_rank=3, lora_targets=("query", "value"), dimension=8).passage
    weights = trained(tower)
    assert len(weights) == 2 * 2 * 2 + 1  # layers × targets × (A, B), and the projection
    assert sum(parameter.numel() for parameter in weights.values()) == 2 * 2 * 2 * 3 * 32 + 8 * 32


def test_adapters_are_initialized_reproducibly(tiny_model: Path, tmp_path: Path) -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        drawn.append(trained(started(tiny_model, tmp_path / str(seed), lora_rank=2).passage))
    assert all(torch.equal(parameter, drawn[1][name]) for name, parameter in drawn[0].items())


def test_a_missing_layer_is_named_in_the_error(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match=r"lora_targets.*no_such_layer"):
        started(tiny_model, tmp_path / "a", lora_rank=2, lora_targets=("no_such_layer",))


def test_without_peft_the_extra_is_named(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NightshiftError, match=r"nightshift\[lora\]"):
        started(tiny_model, tmp_path / "a", lora_rank=2)


def test_a_frozen_passage_encoder_gets_no_gradient_and_no_dropout(tiny_model: Path, tmp_path: Path) -> None:
    encoder = started(tiny_model, tmp_path / "a", shared=False, train="query")
    for tower in encoder.towers.values():
        tower.set_dropout(0.5)
        tower.train()
    ids = encoder.passage.tokenize(TEXTS)
    first, second = encoder.passage(ids, 64), encoder.passage(ids, 64)
    assert not first.requires_grad
    assert torch.equal(first, second)
    assert encoder.query(ids, 64).requires_grad
    assert not torch.equal(encoder.query(ids, 64), encoder.query(ids, 64))


def test_training_uses_the_current_settings_unless_the_weights_do_not_fit() -> None:
    start = EncoderSpec.of(EncoderSettings(), "bf16")
    now = spec_to_train(start, EncoderSettings(query_prompt="find: ", pooling="cls", serve_dimension=8))
    assert (now.query_prompt, now.pooling, now.serve_dimension, now.precision) == ("find: ", "cls", 8, "bf16")
    for other in (EncoderSettings(shared=False, train="query"), EncoderSettings(dimension=8)):
        with pytest.raises(NightshiftError, match='start = "base"'):
            spec_to_train(start, other)


@pytest.mark.parametrize("setting", [{"train": "query"}, {"query_model": "another"}])
def test_settings_that_differ_between_towers_need_separate_encoders(setting: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="shared = false"):
        EncoderSettings(**setting)  # type: ignore[arg-type]


def test_a_prefix_longer_than_the_vector_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match="32 numbers"):
        started(tiny_model, tmp_path / "a", dimensions=(64, 8))


def test_training_changes_the_fingerprint(tiny_model: Path, tmp_path: Path) -> None:
    encoder = started(tiny_model, tmp_path / "a", lora_rank=2)
    before = fingerprint(tmp_path / "a")
    step(encoder.passage)
    save_encoder(encoder, tmp_path / "a")
    assert fingerprint(tmp_path / "a") != before
