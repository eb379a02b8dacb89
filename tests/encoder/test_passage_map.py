"""The passage map: starts as the identity, is stored as Dense steps, and is part of the fingerprint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import (
    DualEncoder,
    EncoderSpec,
    fingerprint,
    load_encoder,
    passage_fingerprint,
    save_encoder,
    start_from,
)
from tasks.core.encoder.passage_map import MAP_FILES, PassageMap, map_to_train, read_map

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 30]


def started(model: Path, folder: Path, **settings: object) -> DualEncoder:
    """Write an encoder with separate sides into `folder`."""
    spec = EncoderSpec.of(EncoderSettings(shared=False, **settings), "fp32")  # type: ignore[arg-type]
    folder.mkdir()
    return start_from(model, spec, folder)


def changed(passage_map: PassageMap, seed: int = 1) -> PassageMap:
    """Set random values for all trained parameters of a map."""
    torch.manual_seed(seed)
    for parameter in passage_map.parameters():
        if parameter.requires_grad:
            with torch.no_grad():
                parameter.add_(0.2 * torch.randn_like(parameter))
    return passage_map


def mapped(model: Path, folder: Path, *, rank: int = 0, hidden: int = 0, **settings: object) -> Path:
    """Write an encoder with a random map; return its folder."""
    encoder = started(model, folder.with_name(f"{folder.name}-start"), **settings)
    encoder.passage.passage_map = changed(map_to_train(None, 32, rank=rank, hidden=hidden))
    save_encoder(encoder, folder)
    return folder


@pytest.mark.parametrize(("rank", "hidden"), [(0, 0), (3, 0), (0, 8), (3, 8)])
def test_a_new_map_is_the_identity(rank: int, hidden: int, tiny_model: Path, tmp_path: Path) -> None:
    encoder = started(tiny_model, tmp_path / "start")
    expected = encoder.encode_passages(TEXTS)
    encoder.passage.passage_map = map_to_train(None, 32, rank=rank, hidden=hidden)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected, atol=1e-6)
    save_encoder(encoder, tmp_path / "saved")
    np.testing.assert_allclose(load_encoder(tmp_path / "saved").encode_passages(TEXTS), expected, atol=1e-6)


@pytest.mark.parametrize(("rank", "hidden"), [(0, 0), (3, 0), (0, 8), (3, 8)])
def test_sentence_transformers_loads_the_map(rank: int, hidden: int, tiny_model: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    folder = mapped(tiny_model, tmp_path / "e", rank=rank, hidden=hidden, passage_prompt="a: ")
    ours = load_encoder(folder)
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    np.testing.assert_allclose(ours.encode_queries(TEXTS), theirs.encode_query(TEXTS), atol=1e-5, rtol=0)
    np.testing.assert_allclose(ours.encode_passages(TEXTS), theirs.encode_document(TEXTS), atol=1e-5, rtol=0)
    plain = load_encoder(tmp_path / "e-start")
    assert not np.allclose(ours.encode_passages(TEXTS), plain.encode_passages(TEXTS), atol=0.01)
    np.testing.assert_array_equal(ours.encode_queries(TEXTS), plain.encode_queries(TEXTS))


def test_the_map_applies_to_the_vectors_of_the_trunk(tiny_model: Path, tmp_path: Path) -> None:
    encoder = load_encoder(mapped(tiny_model, tmp_path / "e"))
    trunk = load_encoder(tmp_path / "e-start").encode_passages(TEXTS)
    tower = encoder.passage
    np.testing.assert_array_equal(tower.encode_trunk(tower.tokenize(TEXTS), 2048), trunk)
    passage_map = read_map(tmp_path / "e" / "passage")
    assert passage_map is not None
    weight, bias = passage_map.weight.detach().numpy(), passage_map.bias.detach().numpy()
    expected = trunk @ weight.T + bias
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.encode_passages(TEXTS), expected, atol=1e-6)


def test_fingerprints_change_with_the_map_and_the_trunk_keeps_its_own(tiny_model: Path, tmp_path: Path) -> None:
    folder = mapped(tiny_model, tmp_path / "e", hidden=4)
    start = tmp_path / "e-start"
    assert fingerprint(folder) != fingerprint(start)
    assert passage_fingerprint(folder) != passage_fingerprint(start)
    assert passage_fingerprint(folder, with_map=False) == passage_fingerprint(start)
    assert passage_fingerprint(start, with_map=False) == passage_fingerprint(start)
    for file in MAP_FILES:
        before = fingerprint(folder), passage_fingerprint(folder)
        content = bytearray((folder / "passage" / file).read_bytes())
        content[-1] ^= 1
        (folder / "passage" / file).write_bytes(content)
        assert not {fingerprint(folder), passage_fingerprint(folder)} & set(before)
        assert passage_fingerprint(folder, with_map=False) == passage_fingerprint(start)


@pytest.mark.parametrize(("rank", "hidden"), [(0, 0), (3, 8)])
def test_training_starts_from_the_given_map(rank: int, hidden: int) -> None:
    vectors = np.random.default_rng(0).standard_normal((9, 32)).astype(np.float32)
    start = changed(map_to_train(None, 32, rank=0, hidden=hidden))
    saved = PassageMap(32, hidden)
    saved.load_state_dict({**start.state_dict(), "weight": start.matrix().detach()}, strict=False)
    trained = map_to_train(saved, 32, rank=rank, hidden=hidden)
    np.testing.assert_allclose(trained.map_vectors(vectors), start.map_vectors(vectors), atol=1e-6)
    assert not trained.weight.requires_grad
    if hidden:
        with pytest.raises(NightshiftError, match=r"map_hidden = 5.*has 8 hidden units.*start = \"base\""):
            map_to_train(saved, 32, rank=0, hidden=5)
        linear = PassageMap(32, 0)
        assert map_to_train(linear, 32, rank=0, hidden=5).hidden == 5


def test_settings_that_a_map_does_not_support_are_refused() -> None:
    for settings, reason in (
        ({"train": "query+map"}, "shared = false"),
        ({"train": "query+map", "shared": False, "serve_dimension": 8}, "serve_dimension = 0"),
        ({"train": "query+map", "shared": False, "normalize": False}, "normalize = true"),
        ({"shared": False, "map_rank": 4}, "map_rank needs"),
        ({"shared": False, "train": "query", "map_hidden": 4}, "map_hidden needs"),
    ):
        with pytest.raises(ValueError, match=reason):
            EncoderSettings.model_validate(settings)
    with_defaults = EncoderSettings(train="query+map", shared=False).recipe()
    assert not {"map_rank", "map_hidden"} & with_defaults.keys()
    assert EncoderSettings(train="query+map", shared=False, map_rank=4).recipe()["map_rank"] == 4


def test_an_equal_step_of_all_weights_changes_a_vector_as_much_by_hidden_units_as_by_the_matrix() -> None:
    vectors = nn.functional.normalize(torch.randn(100, 384, generator=torch.Generator().manual_seed(1)), dim=-1)
    for hidden in (64, 256, 2048):
        passage_map = PassageMap(384, hidden)
        assert passage_map.inner is not None
        units = torch.relu(nn.functional.linear(vectors, passage_map.inner, passage_map.offset))
        by_units, by_matrix = units.sum(1).mean(), vectors.abs().sum(1).mean()
        assert 0.8 * by_matrix < by_units < 1.2 * by_matrix
