from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from small_models import KINDS, made

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, load_encoder, start_from
from tasks.core.encoder.pooling import pool, prefixes

TEXTS = ["a river", "the story of one golden violin seen near a castle", "silent", "one " * 100, ""]
STATES = torch.tensor([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[1.0, 0.0], [2.0, 1.0], [6.0, 2.0]]])
MASK = torch.tensor([[True, True, False], [True, True, True]])


def create_encoder(base: Path, folder: Path, **settings: object) -> DualEncoder:
    folder.mkdir()
    start_from(base, EncoderSpec.of(EncoderSettings(**settings), "fp32"), folder)  # type: ignore[arg-type]
    return load_encoder(folder)


@pytest.mark.parametrize(
    ("pooling", "padded", "full"),
    [("mean", (2, 4), (3, 1)), ("cls", (1, 2), (1, 0)), ("last", (3, 6), (6, 2))],
)
def test_padding_does_not_change_a_vector(pooling: str, padded: tuple[int, int], full: tuple[int, int]) -> None:
    assert pool(STATES, MASK, pooling).tolist() == [list(padded), list(full)]
    assert pool(STATES[1:], None, pooling).tolist() == [list(full)]


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_vector_of_a_text_does_not_depend_on_the_batch_in_any_architecture(
    kind: str, pooling: str, tiny_model: Path, tmp_path: Path
) -> None:
    base = made(kind, tiny_model, tmp_path / "base")
    encoder = create_encoder(base, tmp_path / "encoder", pooling=pooling, passage_tokens=500)
    together = encoder.encode_passages(TEXTS)
    alone = np.concatenate([encoder.encode_passages([text]) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=2e-6)
    assert np.isfinite(together).all()
    distinguishes_texts = kind != "qwen3" or pooling != "cls"  # the first token of a causal model sees no other
    assert (np.linalg.matrix_rank(together) > 2) == distinguishes_texts


def test_a_limit_is_never_beyond_the_positions_of_the_model(tiny_model: Path, tmp_path: Path) -> None:
    limits = {}
    for kind in KINDS:
        base = made(kind, tiny_model, tmp_path / f"{kind}-base")
        limits[kind] = create_encoder(base, tmp_path / kind, passage_tokens=500).passage.max_tokens
    # RoBERTa's positions start after the padding position (0 here); T5's positions are relative and unlimited
    assert limits == {"bert": 64, "roberta": 63, "distilbert": 64, "modernbert": 64, "t5": 500, "qwen3": 64}


def test_a_new_projection_of_full_dimension_keeps_inner_products(tiny_model: Path, tmp_path: Path) -> None:
    plain = create_encoder(tiny_model, tmp_path / "plain").encode_passages(TEXTS)
    turned = create_encoder(tiny_model, tmp_path / "turned", dimension=32).encode_passages(TEXTS)
    assert not np.allclose(plain, turned)
    np.testing.assert_allclose(plain @ plain.T, turned @ turned.T, atol=1e-5)


def test_a_projection_has_the_configured_dimension_and_is_trained(tiny_model: Path, tmp_path: Path) -> None:
    encoder = create_encoder(tiny_model, tmp_path / "encoder", dimension=7)
    assert encoder.encode_queries(TEXTS).shape == (5, 7)
    encoder.passage(encoder.passage.tokenize(TEXTS), 1000)[:, 0].sum().backward()
    assert encoder.passage.projection is not None
    assert encoder.passage.projection.weight.grad is not None
    assert encoder.query.projection is encoder.passage.projection


def test_prefixes_are_cut_and_normalized() -> None:
    vectors = torch.tensor([[0.6, 0.0, 0.8], [0.0, 0.0, 1.0]])
    full, two, first = prefixes(vectors, [1, 2], normalize=True)
    assert full is vectors
    assert two.tolist() == [[1, 0], [0, 0]]
    assert first.tolist() == [[1], [0]]
    plain = prefixes(torch.tensor([[3.0, 4.0, 5.0]]), [2, 3], normalize=False)
    assert [part.tolist() for part in plain] == [[[3, 4, 5]], [[3, 4]]]


def test_the_gradient_of_a_prefix_loss_reaches_only_its_prefix() -> None:
    vectors = torch.tensor([[1.0, 2.0, 2.0]], requires_grad=True)
    prefixes(vectors, [2], normalize=True)[1].sum().backward()
    # d/dx of (x + y) / sqrt(x² + y²) at (1, 2): y (y − x) / 5^1.5, and the other way round
    assert vectors.grad is not None
    scale = float(Fraction(1, 5)) / 5**0.5
    assert vectors.grad[0].tolist() == pytest.approx([2 * scale, -1 * scale, 0])


def test_served_vectors_are_normalized_prefixes(tiny_model: Path, tmp_path: Path) -> None:
    full = create_encoder(tiny_model, tmp_path / "full").encode_passages(TEXTS)
    served = create_encoder(tiny_model, tmp_path / "served", serve_dimension=8)
    assert (served.dimension, served.passage.width) == (8, 32)
    expected = full[:, :8] / np.linalg.norm(full[:, :8], axis=1, keepdims=True)
    np.testing.assert_allclose(served.encode_passages(TEXTS), expected, atol=1e-6)


def test_a_dimension_above_that_of_the_vectors_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    with pytest.raises(NightshiftError, match=r"serve_dimension = 64.* 32 numbers"):
        create_encoder(tiny_model, tmp_path / "encoder", serve_dimension=64)


def test_bf16_rounds_the_transformer_and_not_the_projection(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "encoder"
    folder.mkdir()
    spec = EncoderSpec.of(EncoderSettings(dimension=16), "bf16")
    encoder = start_from(tiny_model, spec, folder).for_inference()
    assert encoder.passage.projection is not None
    assert encoder.passage.projection.weight.dtype == torch.float32
    assert next(encoder.passage.transformer.parameters()).dtype == torch.bfloat16
    exact = create_encoder(tiny_model, tmp_path / "exact", dimension=16).encode_passages(TEXTS)
    assert (encoder.encode_passages(TEXTS) * exact).sum(axis=1).min() > 0.999
