"""InfoNCE with in-batch and hard negatives. Known positives are masked out of the denominator."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tasks.core.training.losses.relations import Relations

Direction = Literal["query_to_passage", "passage_to_query", "query_to_query", "passage_to_passage"]
DIRECTIONS: tuple[Direction, ...] = get_args(Direction)


def infonce(
    queries: Tensor,
    passages: Tensor,
    relations: Relations,
    *,
    temperature: float,
    directions: Sequence[Direction] = ("query_to_passage",),
) -> Tensor:
    """Compute the mean over queries i of −log( exp(qᵢ·pᵢ/τ) / Zᵢ ), where pᵢ is the positive of the query's pair.

    With weights of pairs, the mean is weighted: Σ wᵢ lossᵢ / Σ wᵢ.

    Zᵢ sums exp(·/τ) over the pair itself and the negatives of every direction:

    - query_to_passage: qᵢ·p for all other passages p of the batch, mined negatives included. Without other directions
      this is equation 4 of van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018).
    - passage_to_query: pᵢ·q for the other queries q; query_to_query: qᵢ·q; passage_to_passage: pᵢ·p. All four
      together are the improved contrastive loss of Li et al., "Towards General Text Embeddings with Multi-stage
      Contrastive Learning" (2023), equations 2 and 3.

    Known positives are masked out in every direction: for query i, all its other known positives, and all queries that
    share a known positive with it. So a duplicate of a positive is never pushed away.

    Args:
        queries: float (q, d). Scores are inner products, so cosines for unit vectors.
        passages: float (p, d).
        relations: positives and masks.
        temperature: τ > 0.
        directions: terms of the denominator.

    Returns:
        A scalar of the vectors' type.
    """
    targets = passages[relations.target]
    parts = [(queries * targets).sum(dim=1, keepdim=True)]
    if "query_to_passage" in directions:
        parts.append(_mask(queries @ passages.T, relations.known))
    if "passage_to_query" in directions:
        parts.append(_mask(targets @ queries.T, _related(relations)))
    if "query_to_query" in directions:
        parts.append(_mask(queries @ queries.T, _related(relations)))
    if "passage_to_passage" in directions:
        parts.append(_mask(targets @ passages.T, relations.known))
    scores = torch.cat(parts, dim=1) / temperature
    first = torch.zeros_like(relations.target)
    if relations.weight is None:
        return nn.functional.cross_entropy(scores, first)
    terms = nn.functional.cross_entropy(scores, first, reduction="none")
    return relations.mean(terms, torch.ones_like(first, dtype=torch.bool))


def _mask(scores: Tensor, masked: Tensor) -> Tensor:
    return scores.masked_fill(masked, -torch.inf)


def _related(relations: Relations) -> Tensor:
    """Return pairs of queries where the positive of one is a known positive of the other, bool (q, q)."""
    shared = relations.known[:, relations.target]  # [i, j]: the positive of query j is a known positive of query i
    return shared | shared.T
