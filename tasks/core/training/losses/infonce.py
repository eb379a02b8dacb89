"""InfoNCE with in-batch and hard negatives, and no known positive in the denominator."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def infonce(queries: Tensor, passages: Tensor, targets: Tensor, known: Tensor, temperature: float) -> Tensor:
    """Mean of −log( exp(q·p⁺/τ) / Σ_j exp(q·p_j/τ) ) over the queries of a batch.

    Equation 4 of van den Oord et al., "Representation Learning with Contrastive Predictive Coding" (2018), with
    the passages of the whole batch and the mined negatives as the sum's terms. A passage that is another known
    positive of the query is left out of that query's sum, so it is never pushed away.

    Args:
        queries: float (q, d) query vectors.
        passages: float (p, d) passage vectors, p ≥ q.
        targets: int64 (q,) the row of each query's own positive among the passages.
        known: bool (q, p), true where the passage is any known positive of the query, its own included.
        temperature: τ > 0.

    Returns:
        A float32 scalar.
    """
    scores = queries.float() @ passages.float().T / temperature
    own = nn.functional.one_hot(targets, passages.shape[0]).bool()
    return nn.functional.cross_entropy(scores.masked_fill(known & ~own, -torch.inf), targets)
