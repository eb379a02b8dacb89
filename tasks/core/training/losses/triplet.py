"""The triplet loss over all valid triplets of a batch."""

from __future__ import annotations

from torch import Tensor

from tasks.core.training.losses.relations import Relations


def triplet(queries: Tensor, passages: Tensor, relations: Relations, *, margin: float) -> Tensor:
    """Compute the mean of max(0, ‖q − p⁺‖² − ‖q − p⁻‖² + m) over all triplets (query, its positive, a negative).

    Equation 3 of Schroff et al., "FaceNet: A Unified Embedding for Face Recognition and Clustering" (2015), divided by
    the number of triplets. Negatives are all passages of the batch that are not known positives of the query:
    mined negatives and positives of other queries. A triplet has the weight of its query's pair.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: positives and masks.
        margin: m > 0, a squared distance; between unit vectors, squared distances are in [0, 4].

    Returns:
        A scalar of the vectors' type; 0 when there is no triplet.
    """
    # ‖q − p‖² without a (q, p, d) tensor; ‖q‖² cancels in the difference.
    distances = (passages**2).sum(dim=1) - 2 * queries @ passages.T
    to_target = distances.gather(1, relations.target[:, None])
    violation = (to_target - distances + margin).clamp(min=0)
    return relations.mean(violation, relations.negative)
