"""InfoNCE with in-batch and hard negatives, and no known positive in the denominator."""

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
    """Mean over the queries i of −log( exp(qᵢ·pᵢ/τ) / Zᵢ ), pᵢ being the query's own positive.

    Zᵢ sums exp(·/τ) over the own pair and over the negatives of every direction:

    - query_to_passage: qᵢ·p for all other passages p of the batch, mined negatives included. Alone it is equation 4
      of van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018).
    - passage_to_query: pᵢ·q for the other queries q; query_to_query: qᵢ·q; passage_to_passage: pᵢ·p. All four
      together are the improved contrastive loss of Li et al., "Towards General Text Embeddings with Multi-stage
      Contrastive Learning" (2023), equations 2 and 3.

    What is known to belong together is in no direction's sum: for query i no known positive but its own, and no
    query that shares a known positive with it. So a duplicate of a positive is never pushed away.

    Args:
        queries: float (q, d). Unit vectors give cosines, others the inner product.
        passages: float (p, d).
        relations: who belongs to whom.
        temperature: τ > 0.
        directions: which sums are in the denominator.

    Returns:
        A scalar of the vectors' type.
    """
    own = passages[relations.own]
    parts = [(queries * own).sum(dim=1, keepdim=True)]
    if "query_to_passage" in directions:
        parts.append(_without(queries @ passages.T, relations.known))
    if "passage_to_query" in directions:
        parts.append(_without(own @ queries.T, _related(relations)))
    if "query_to_query" in directions:
        parts.append(_without(queries @ queries.T, _related(relations)))
    if "passage_to_passage" in directions:
        parts.append(_without(own @ passages.T, relations.known))
    scores = torch.cat(parts, dim=1) / temperature
    return nn.functional.cross_entropy(scores, torch.zeros_like(relations.own))


def _without(scores: Tensor, masked: Tensor) -> Tensor:
    return scores.masked_fill(masked, -torch.inf)


def _related(relations: Relations) -> Tensor:
    """bool (q, q): itself, and queries for one of which the other's own positive is a known positive."""
    asks = relations.known[:, relations.own]  # [i, j]: query i knows the positive of query j
    return asks | asks.T
