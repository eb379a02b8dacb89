"""Supervised contrastive losses: over the positives of queries, and over labels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tasks.core.training.losses.relations import Relations


def supcon(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Compute the supervised contrastive loss of retrieval.

    Mean over queries i of −1/|P(i)| Σ_{p∈P(i)} log( exp(qᵢ·p/τ) / (exp(qᵢ·p/τ) + Nᵢ) ).

    P(i) is the set of the query's judged positives in the batch, and Nᵢ = Σ exp(qᵢ·n/τ) over the passages that are not
    known positives of the query. As in L_out (see `supcon_of_labels`), the sum over positives is outside the
    logarithm. Unlike L_out, the denominator of a positive holds no other positives. So positives do not push each
    other away, and perfect vectors have zero loss. With one positive per query this is InfoNCE.

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
    return _mean_of_means(loss, relations.positive).mean()


def supcon_of_labels(vectors: Tensor, labels: Tensor, *, temperature: float) -> Tensor:
    """Compute L_out, equation 2 of Khosla et al., "Supervised Contrastive Learning" (2020), as a mean over anchors.

    Mean over i of −1/|P(i)| Σ_{p∈P(i)} log( exp(zᵢ·z_p/τ) / Σ_{a≠i} exp(zᵢ·z_a/τ) ), where P(i) are the other items
    with the label of i. Anchors without such items are skipped.

    Args:
        vectors: float (n, d).
        labels: int64 (n,).
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type; 0 when no two labels are equal.
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    positive = (labels[:, None] == labels) & ~itself
    scores = vectors @ vectors.T / temperature
    log_share = scores - scores.masked_fill(itself, -torch.inf).logsumexp(dim=1, keepdim=True)
    anchors = positive.any(dim=1)
    return _mean_of_means(-log_share, positive).sum() / anchors.sum().clamp(min=1)


def _mean_of_means(values: Tensor, chosen: Tensor) -> Tensor:
    """Return the mean of each row over its chosen columns; 0 for a row without chosen columns."""
    return values.masked_fill(~chosen, 0).sum(dim=1) / chosen.sum(dim=1).clamp(min=1)
