from __future__ import annotations

import math

import torch

from tasks.core.training.losses.infonce import infonce

NONE = torch.eye(2, dtype=torch.bool)


def test_the_loss_is_the_formula_by_hand() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    passages = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    known = torch.tensor([[True, False, False], [False, True, False]])
    loss = infonce(queries, passages, torch.tensor([0, 1]), known, temperature=0.5)
    # scores / 0.5: query 0 → 2, 1.2, 0; query 1 → 0, 1.6, 2
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(1.2) + math.exp(0)))
    second = -math.log(math.exp(1.6) / (math.exp(0) + math.exp(1.6) + math.exp(2)))
    assert loss.item() == torch.tensor((first + second) / 2).item()


def test_perfect_embeddings_with_a_duplicated_positive_lose_nothing() -> None:
    queries = torch.eye(4)[[0, 1, 2, 0]]  # queries 0 and 3 have the same positive text
    known = torch.tensor(
        [
            [True, False, False, True],
            [False, True, False, False],
            [False, False, True, False],
            [True, False, False, True],
        ]
    )
    masked = infonce(queries, queries, torch.arange(4), known, temperature=0.001)
    unmasked = infonce(queries, queries, torch.arange(4), torch.eye(4, dtype=torch.bool), temperature=0.001)
    assert masked.item() == 0
    assert unmasked.item() == torch.tensor(math.log(2) / 2).item()  # .3466, what others report


def test_a_known_positive_gets_no_gradient_as_a_negative() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    passages = torch.tensor([[0.8, 0.6], [0.6, 0.8], [0.9, 0.1]], requires_grad=True)
    known = torch.tensor([[True, False, True], [False, True, True]])
    infonce(queries, passages, torch.tensor([0, 1]), known, temperature=0.1).backward()
    assert passages.grad is not None
    assert passages.grad[2].abs().sum() == 0
    assert passages.grad[0].abs().sum() > 0


def test_the_gradient_is_that_of_the_formula() -> None:
    torch.manual_seed(0)
    queries = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 1, 2])
    known = torch.zeros(3, 5, dtype=torch.bool)
    known[[0, 1, 2, 0], [0, 1, 2, 4]] = True
    infonce(queries, passages, targets, known, 0.7).backward()
    scores = (queries @ passages.T / 0.7).detach()
    scores[0, 4] = -torch.inf
    pull = (scores.softmax(dim=1) - torch.eye(5, dtype=torch.float64)[targets]) / 3 / 0.7
    assert queries.grad is not None
    assert torch.allclose(queries.grad, pull @ passages.detach(), atol=1e-6)
