"""The triplet loss over all valid triplets of a batch."""

from __future__ import annotations

from torch import Tensor

from tasks.core.training.losses.relations import Relations


def triplet(queries: Tensor, passages: Tensor, relations: Relations, *, margin: float) -> Tensor:
    """Mean of max(0, ‖q − p⁺‖² − ‖q − p⁻‖² + m) over all triplets of a query, its own positive and a negative.

    Equation 3 of Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering" (2015), divided by
    the number of triplets. Negatives are all passages of the batch that are not known positives of the query: mined
    ones and other queries' positives.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: who belongs to whom.
        margin: m > 0, in squared distance; between unit vectors that lies in [0, 4].

    Returns:
        A scalar of the vectors' type; 0 when there is no triplet.
    """
    # ‖q − p‖² without a (q, p, d) tensor; ‖q‖² falls out of the difference.
    distances = (passages**2).sum(dim=1) - 2 * queries @ passages.T
    to_own = distances.gather(1, relations.own[:, None])
    violation = (to_own - distances + margin).clamp(min=0)
    negative = relations.negative
    return (violation * negative).sum() / negative.sum().clamp(min=1)
