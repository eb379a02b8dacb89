"""The supervised contrastive loss, over the positives of queries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.core.training.losses.relations import Relations


def supcon(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Compute the supervised contrastive loss of retrieval.

    (Weighted) mean over queries i of −1/|P(i)| Σ_{p∈P(i)} log( exp(qᵢ·p/τ) / (exp(qᵢ·p/τ) + Nᵢ) ).

    P(i) is the set of the query's judged positives in the batch, and Nᵢ = Σ exp(qᵢ·n/τ) over the passages that are
    not known positives of the query. As in L_out (equation 2 of Khosla et al., "Supervised Contrastive Learning",
    2020), the sum over positives is outside the logarithm. Unlike L_out, the denominator of a positive holds no
    other positives. So positives do not push each other away, and perfect vectors have zero loss. With one positive
    per query this is InfoNCE.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: positives and masks.
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type.
    """
    scores = queries @ passages.T / temperature
    negatives = scores.masked_fill(relations.known, -torch.inf).logsumexp(dim=1, keepdim=True)
    loss = nn.functional.softplus(negatives - scores)  # −log( eˢ / (eˢ + N) )
    chosen = relations.positive
    mean_over_positives = loss.masked_fill(~chosen, 0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
    if relations.weight is None:
        return mean_over_positives.mean()
    return relations.mean(mean_over_positives, torch.ones_like(mean_over_positives, dtype=torch.bool))
