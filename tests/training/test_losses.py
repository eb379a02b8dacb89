"""Each loss against its formula, computed in float64 with loops over queries and passages."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tasks.core.base.settings import TrainingSettings
from tasks.core.training.losses.choose import choose_loss, matryoshka
from tasks.core.training.losses.distillation import kl, margin_mse
from tasks.core.training.losses.infonce import DIRECTIONS, infonce
from tasks.core.training.losses.relations import Relations
from tasks.core.training.losses.supcon import supcon
from tasks.core.training.losses.triplet import triplet

NAMES = ["infonce", "triplet", "supcon", "margin_mse", "kl"]
TAU = 0.5


def batch(seed: int = 0) -> tuple[Tensor, Tensor, Relations]:
    """Four queries and seven passages: query 0 has a second positive and a near duplicate, query 3 shares one."""
    torch.manual_seed(seed)
    queries = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    passages = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    own = torch.tensor([0, 1, 2, 3])
    positive = torch.zeros(4, 7, dtype=torch.bool)
    positive[own, own] = True
    positive[0, 4] = True
    known = positive.clone()
    known[0, 5] = known[3, 0] = True
    teacher = torch.randn(4, 7, dtype=torch.float64) * 3
    teacher[1, [0, 2, 3]] = torch.nan
    teacher[2] = torch.nan
    return queries, passages, Relations(own, positive, known, teacher)


def dot(left: Tensor, right: Tensor) -> float:
    return float(sum(a * b for a, b in zip(left.tolist(), right.tolist(), strict=True)))


def negatives_of(relations: Relations, query: int) -> list[int]:
    return [passage for passage in range(relations.known.shape[1]) if not relations.known[query, passage]]


def test_infonce_matches_its_formula_on_a_small_example() -> None:
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    passages = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64)
    known = torch.tensor([[True, False, False], [False, True, False]])
    loss = infonce(queries, passages, Relations(torch.tensor([0, 1]), known, known), temperature=0.5)
    # scores / 0.5: query 0 → 2, 1.2, 0; query 1 → 0, 1.6, 2
    first = -math.log(math.exp(2) / (math.exp(2) + math.exp(1.2) + math.exp(0)))
    second = -math.log(math.exp(1.6) / (math.exp(0) + math.exp(1.6) + math.exp(2)))
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-12)


@pytest.mark.parametrize("directions", [DIRECTIONS[:1], DIRECTIONS[:2], DIRECTIONS[1:3], DIRECTIONS])
def test_infonce_matches_its_formula_in_every_direction(directions: tuple[str, ...]) -> None:
    queries, passages, relations = batch()
    related = {(0, 3), (3, 0)}  # the positive of query 0 is a known positive of query 3
    total = 0.0
    for i in range(4):
        own = passages[i]
        denominator = math.exp(dot(queries[i], own) / TAU)
        others = [j for j in range(4) if j != i and (i, j) not in related]
        if "query_to_passage" in directions:
            denominator += sum(math.exp(dot(queries[i], passages[n]) / TAU) for n in negatives_of(relations, i))
        if "passage_to_query" in directions:
            denominator += sum(math.exp(dot(own, queries[j]) / TAU) for j in others)
        if "query_to_query" in directions:
            denominator += sum(math.exp(dot(queries[i], queries[j]) / TAU) for j in others)
        if "passage_to_passage" in directions:
            denominator += sum(math.exp(dot(own, passages[n]) / TAU) for n in negatives_of(relations, i))
        total -= math.log(math.exp(dot(queries[i], own) / TAU) / denominator)
    loss = infonce(queries, passages, relations, temperature=TAU, directions=directions)  # type: ignore[arg-type]
    assert loss.item() == pytest.approx(total / 4, abs=1e-12)


def test_triplet_matches_its_formula() -> None:
    queries, passages, relations = batch()
    terms = []
    for i in range(4):
        near = sum((a - b) ** 2 for a, b in zip(queries[i].tolist(), passages[i].tolist(), strict=True))
        for n in negatives_of(relations, i):
            far = sum((a - b) ** 2 for a, b in zip(queries[i].tolist(), passages[n].tolist(), strict=True))
            terms.append(max(0.0, near - far + 0.7))
    assert triplet(queries, passages, relations, margin=0.7).item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_triplet_on_a_small_example_equals_exact_fractions() -> None:
    queries = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    passages = torch.tensor([[1.0, 0.5], [1.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    known = torch.tensor([[True, False, False]])
    loss = triplet(queries, passages, Relations(torch.tensor([0]), known, known), margin=1.0)
    assert loss.item() == ((1 / 4 - 1 + 1) + (1 / 4 - 1 + 1)) / 2


def test_supcon_over_positives_matches_its_formula() -> None:
    queries, passages, relations = batch()
    total = 0.0
    for i in range(4):
        rivals = sum(math.exp(dot(queries[i], passages[n]) / TAU) for n in negatives_of(relations, i))
        chosen = [p for p in range(7) if relations.positive[i, p]]
        shares = [math.exp(dot(queries[i], passages[p]) / TAU) for p in chosen]
        total -= sum(math.log(share / (share + rivals)) for share in shares) / len(chosen)
    assert supcon(queries, passages, relations, temperature=TAU).item() == pytest.approx(total / 4, abs=1e-12)


def test_supcon_with_one_positive_per_query_equals_infonce() -> None:
    queries, passages, relations = batch()
    single = Relations(relations.target, relations.is_target, relations.known)
    loss = supcon(queries, passages, single, temperature=TAU)
    assert loss.item() == pytest.approx(infonce(queries, passages, single, temperature=TAU).item(), abs=1e-12)


def test_margin_mse_matches_its_formula() -> None:
    queries, passages, relations = batch()
    assert relations.teacher is not None
    terms = []
    for i in (0, 1, 3):  # query 2 is not scored
        for n in negatives_of(relations, i):
            if not math.isnan(relations.teacher[i, n]):
                student = dot(queries[i], passages[i]) / TAU - dot(queries[i], passages[n]) / TAU
                terms.append((student - float(relations.teacher[i, i] - relations.teacher[i, n])) ** 2)
    loss = margin_mse(queries, passages, relations, temperature=TAU)
    assert loss.item() == pytest.approx(sum(terms) / len(terms), abs=1e-12)


def test_kl_matches_its_formula() -> None:
    queries, passages, relations = batch()
    assert relations.teacher is not None
    total = 0.0
    for i in (0, 1, 3):
        columns = [i, *(n for n in negatives_of(relations, i) if not math.isnan(relations.teacher[i, n]))]
        student = [math.exp(dot(queries[i], passages[p]) / TAU) for p in columns]
        teacher = [math.exp(float(relations.teacher[i, p])) for p in columns]
        for s, t in zip(student, teacher, strict=True):
            total += t / sum(teacher) * math.log((t / sum(teacher)) / (s / sum(student)))
    assert kl(queries, passages, relations, temperature=TAU).item() == pytest.approx(total / 3, abs=1e-12)


@pytest.mark.parametrize("loss", [margin_mse, kl])
def test_distillation_without_teacher_scores_is_zero(loss: Callable[..., Tensor]) -> None:
    queries, passages, relations = batch()
    silent = Relations(relations.target, relations.positive, relations.known, torch.full((4, 7), torch.nan))
    value = loss(queries, passages, silent, temperature=TAU)
    value.backward()
    assert value.item() == 0
    assert queries.grad is not None
    assert queries.grad.abs().sum() == 0


@pytest.mark.parametrize("name", ["kl", "margin_mse"])
def test_distillation_shares_the_loss_with_infonce(name: str) -> None:
    queries, passages, relations = batch()
    parts = [choose_loss(loss_settings(part))(queries, passages, relations).item() for part in ("infonce", name)]
    mixed = choose_loss(loss_settings(name, contrastive_share=0.3))
    assert mixed(queries, passages, relations).item() == pytest.approx(0.3 * parts[0] + 0.7 * parts[1], abs=1e-12)
    alone = choose_loss(loss_settings("infonce", contrastive_share=0.3))
    assert alone(queries, passages, relations).item() == pytest.approx(parts[0], abs=1e-12)
    silent = Relations(relations.target, relations.positive, relations.known, torch.full((4, 7), torch.nan))
    assert mixed(queries, passages, silent).item() == pytest.approx(0.3 * parts[0], abs=1e-12)


def test_the_default_share_does_not_change_the_recipe() -> None:
    assert "contrastive_share" not in TrainingSettings(loss="kl").recipe()
    assert TrainingSettings(loss="kl", contrastive_share=0.5).recipe()["contrastive_share"] == 0.5


def loss_settings(name: str, **more: object) -> TrainingSettings:
    return TrainingSettings.model_validate({"loss": name, "temperature": TAU, "margin": 0.7, **more})


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_equals_the_numerical_gradient(name: str) -> None:
    queries, passages, relations = batch()
    loss = choose_loss(loss_settings(name, directions=DIRECTIONS))
    assert torch.autograd.gradcheck(lambda q, p: loss(q, p, relations), (queries, passages))


@pytest.mark.parametrize("name", NAMES)
def test_losses_do_not_depend_on_the_order_of_queries_and_passages(name: str) -> None:
    queries, passages, relations = batch()
    loss = choose_loss(loss_settings(name, directions=DIRECTIONS))
    rows, columns = torch.randperm(4), torch.randperm(7)
    assert relations.teacher is not None
    moved = Relations(
        columns.argsort()[relations.target[rows]],
        *(table[rows][:, columns] for table in (relations.positive, relations.known, relations.teacher)),
    )
    expected = loss(queries, passages, relations).item()
    assert loss(queries[rows], passages[columns], moved).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", ["infonce", "triplet", "supcon"])
def test_perfect_vectors_with_a_duplicated_positive_have_zero_loss(name: str) -> None:
    queries = torch.eye(4)[[0, 1, 2, 0]]  # queries 0 and 3 have the same positive text
    known = torch.eye(4)[[0, 1, 2, 0]] @ torch.eye(4)[:, [0, 1, 2, 0]] > 0
    loss = choose_loss(loss_settings(name, temperature=0.001, directions=DIRECTIONS))
    assert loss(queries, queries, Relations(torch.arange(4), known, known)).item() == 0


def test_without_the_mask_a_duplicated_positive_has_a_loss() -> None:
    queries, alone = torch.eye(4)[[0, 1, 2, 0]], torch.eye(4, dtype=torch.bool)
    loss = infonce(queries, queries, Relations(torch.arange(4), alone, alone), temperature=0.001)
    assert loss.item() == pytest.approx(math.log(2) / 2)  # .3466


@pytest.mark.parametrize("name", NAMES)
def test_a_near_duplicate_of_a_positive_gets_no_gradient(name: str) -> None:
    queries, passages, relations = batch()
    assert relations.teacher is not None
    known = relations.known.clone()
    known[:, 5] = True  # passage 5 is a near duplicate of a positive of every query, but not judged
    loss = choose_loss(loss_settings(name, directions=DIRECTIONS))
    loss(queries, passages, Relations(relations.target, relations.positive, known, relations.teacher)).backward()
    assert passages.grad is not None
    assert passages.grad[5].abs().sum() == 0
    assert passages.grad[0].abs().sum() > 0


def test_nested_dimensions_average_the_losses_of_their_prefixes() -> None:
    queries, passages, relations = batch()
    loss = choose_loss(loss_settings("infonce"))
    cut = [torch.nn.functional.normalize(side[:, :2], dim=1) for side in (queries, passages)]
    expected = (loss(queries, passages, relations) + loss(cut[0], cut[1], relations)) / 2
    assert matryoshka(loss, (2,), normalize=True)(queries, passages, relations).item() == pytest.approx(expected.item())
    assert matryoshka(loss, (), normalize=True) is loss
