from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec, start_from
from tasks.core.training.gradient_cache import Forward
from tasks.core.training.losses.choose import choose_loss, matryoshka
from tasks.core.training.losses.infonce import DIRECTIONS
from tasks.core.training.losses.relations import Relations
from tasks.core.training.word_gradients import make_dense, make_sparse

LOSSES = ["infonce", "triplet", "supcon", "margin_mse", "kl"]
QUERIES, PASSAGES = 12, 30


class Bag(nn.Module):
    """A minimal tower: mean of token vectors, then a layer with dropout, in float64."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.EmbeddingBag(50, 8, dtype=torch.float64)
        self.layer = nn.Sequential(nn.Linear(8, 6, dtype=torch.float64), nn.Tanh(), nn.Dropout(0.3))

    def forward(self, ids: list[list[int]], token_budget: int) -> Tensor:
        flat = torch.tensor([token for text in ids for token in text])
        ends = torch.tensor([len(text) for text in ids]).cumsum(0)
        vectors: Tensor = self.layer(self.tokens(flat, ends - torch.tensor([len(text) for text in ids])))
        return vectors


def texts(count: int, longest: int = 14) -> list[list[int]]:
    return [torch.randint(0, 50, (int(torch.randint(2, longest, ())),)).tolist() for _ in range(count)]


def relations(dtype: torch.dtype) -> Relations:
    own = torch.randperm(PASSAGES)[:QUERIES]
    positive = torch.rand(QUERIES, PASSAGES) < 0.05
    positive[torch.arange(QUERIES), own] = True
    known = positive | (torch.rand(QUERIES, PASSAGES) < 0.05)
    weight = torch.rand(QUERIES, dtype=dtype) + 0.1
    return Relations(own, positive, known, torch.randn(QUERIES, PASSAGES, dtype=dtype), weight)


def gradients(tower: nn.Module, sides: list[list[list[int]]], facts: Relations, name: str, keep: bool) -> list[Tensor]:
    """Return the gradients of all weights for one loss over all vectors, with the same dropout in each call."""
    loss = matryoshka(choose_loss(TrainingSettings(loss=name, directions=DIRECTIONS)), (3,), normalize=True)
    tower.zero_grad()
    torch.manual_seed(7)
    forward = Forward([(tower, side) for side in sides], 40, keep=keep, autocast=nullcontext)
    value = loss(forward.vectors[0], forward.vectors[1], facts)
    forward.backward(torch.autograd.grad(value, forward.vectors))
    return [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in tower.parameters()]


@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_the_cached_gradient_equals_the_plain_gradient_in_float64(name: str, dropout: bool) -> None:
    torch.manual_seed(0)
    tower, sides, facts = Bag().train(dropout), [texts(QUERIES), texts(PASSAGES)], relations(torch.float64)
    plain, cached = (gradients(tower, sides, facts, name, keep) for keep in (True, False))
    for expected, actual in zip(plain, cached, strict=True):
        assert torch.allclose(expected, actual, rtol=1e-10, atol=1e-10)
    assert max(float(gradient.abs().max()) for gradient in plain) > 1e-6


def test_the_plain_gradient_equals_the_gradient_of_a_single_graph() -> None:
    torch.manual_seed(0)
    tower, sides, facts = Bag().eval(), [texts(QUERIES), texts(PASSAGES)], relations(torch.float64)
    actual = gradients(tower, sides, facts, "infonce", keep=True)
    tower.zero_grad()
    loss = matryoshka(choose_loss(TrainingSettings(directions=DIRECTIONS)), (3,), normalize=True)
    loss(tower(sides[0], 0), tower(sides[1], 0), facts).backward()
    for gradient, parameter in zip(actual, tower.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-10, atol=1e-12)


@pytest.fixture
def encoder(tiny_model: Path, tmp_path: Path) -> DualEncoder:
    return start_from(tiny_model, EncoderSpec.of(EncoderSettings(), "fp32"), tmp_path)


@pytest.mark.parametrize("dropout", [0.0, 0.4])
@pytest.mark.parametrize("name", LOSSES)
def test_the_cached_gradient_of_a_transformer_equals_the_plain_gradient(
    encoder: DualEncoder, name: str, dropout: float
) -> None:
    torch.manual_seed(1)
    tower, sides, facts = encoder.passage, [texts(QUERIES), texts(PASSAGES)], relations(torch.float32)
    tower.set_dropout(dropout)
    tower.train()
    plain, cached = (gradients(tower, sides, facts, name, keep) for keep in (True, False))
    for expected, actual in zip(plain, cached, strict=True):
        assert torch.allclose(expected, actual, rtol=1e-4, atol=1e-6)


def test_the_sparse_gradient_of_word_embeddings_equals_the_dense_gradient(encoder: DualEncoder) -> None:
    torch.manual_seed(1)
    tower, sides, facts = encoder.passage, [texts(QUERIES), texts(PASSAGES)], relations(torch.float32)
    dense = gradients(tower, sides, facts, "infonce", keep=True)
    make_sparse(encoder)
    words = tower.transformer.get_input_embeddings().weight
    gradients(tower, sides, facts, "infonce", keep=True)
    assert words.grad is not None
    assert words.grad.is_sparse
    make_dense(encoder)
    actual = [torch.zeros_like(p) if p.grad is None else p.grad for p in tower.parameters()]
    for expected, gradient in zip(dense, actual, strict=True):
        assert not gradient.is_sparse
        assert torch.allclose(expected, gradient, rtol=1e-4, atol=1e-7)


def test_with_a_frozen_tower_the_other_tower_gets_its_usual_gradient() -> None:
    torch.manual_seed(0)
    asking, frozen = Bag().eval(), Bag().eval().requires_grad_(False)
    facts, sides = relations(torch.float64), [texts(QUERIES), texts(PASSAGES)]
    loss = choose_loss(TrainingSettings())
    forward = Forward([(asking, sides[0]), (frozen, sides[1])], 40, keep=False, autocast=nullcontext)
    assert not forward.vectors[1].requires_grad
    (gradient,) = torch.autograd.grad(loss(forward.vectors[0], forward.vectors[1], facts), forward.vectors[:1])
    forward.backward([gradient, None])
    actual = [parameter.grad.clone() for parameter in asking.parameters() if parameter.grad is not None]
    asking.zero_grad()
    loss(asking(sides[0], 0), frozen(sides[1], 0), facts).backward()
    for gradient, parameter in zip(actual, asking.parameters(), strict=True):
        assert parameter.grad is not None
        assert torch.allclose(gradient, parameter.grad, rtol=1e-10, atol=1e-12)


def test_only_one_chunk_of_a_cached_batch_is_in_memory_with_its_graph() -> None:
    torch.manual_seed(0)
    tower, alive, most = Bag(), 0, 0

    def count(module: nn.Module, inputs: object, output: Tensor) -> None:
        nonlocal alive, most
        if output.requires_grad:
            alive, most = alive + 1, max(most, alive + 1)
            output.register_hook(gone)

    def gone(gradient: Tensor) -> None:
        nonlocal alive
        alive -= 1

    tower.layer.register_forward_hook(count)
    gradients(tower, [texts(QUERIES), texts(PASSAGES)], relations(torch.float64), "infonce", keep=False)
    assert most == 1
    gradients(tower, [texts(QUERIES), texts(PASSAGES)], relations(torch.float64), "infonce", keep=True)
    assert most > 3
