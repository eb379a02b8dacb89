"""Distillation losses: learn a teacher's margins, or its score distribution.

The student's score is s = q·p/τ. τ = 1 is the published form for unnormalized vectors; for unit vectors, τ scales
cosines to the range of the teacher's scores. Passages without a teacher score are ignored. Known positives other than
the positive of the query's pair are ignored too, because a low teacher score must not push them away. Means are
weighted by the weight of each query's pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.training.losses.relations import Relations


def margin_mse(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Mean of ((s⁺ − s⁻) − (t⁺ − t⁻))² over the scored negatives of queries whose positive is scored.

    Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation"
    (2020), equation 3.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: positives, masks, and the teacher's scores t.
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type; 0 when nothing is scored.
    """
    student, teacher, scored = _scores(queries, passages, relations, temperature)
    target = relations.target[:, None]
    pairs = scored & relations.negative & scored.gather(1, target)
    error = (student.gather(1, target) - student) - (teacher.gather(1, target) - teacher)
    return relations.mean(error.masked_fill(~pairs, 0) ** 2, pairs)


def kl(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Mean over queries of KL( softmax(t) ‖ softmax(s) ), both over the query's scored passages.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), over a query's candidates as in Ren et al.,
    "RocketQAv2" (2021), equation 3. Queries with fewer than two scored passages are skipped.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: positives, masks, and the teacher's scores t.
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type; 0 when nothing is scored.
    """
    student, teacher, scored = _scores(queries, passages, relations, temperature)
    counted = scored.sum(dim=1) > 1
    scored = scored | ~counted[:, None]  # avoids NaN in rows without scores; they are skipped below
    log_student = student.masked_fill(~scored, -torch.inf).log_softmax(dim=1)
    log_teacher = teacher.masked_fill(~scored, -torch.inf).log_softmax(dim=1)
    gap = (log_teacher - log_student).masked_fill(~scored, 0)
    divergence = (log_teacher.exp() * gap).sum(dim=1)
    return relations.mean(divergence, counted)


def _scores(
    queries: Tensor, passages: Tensor, relations: Relations, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return student scores, teacher scores (0 where missing), and a mask of the scores that count; all (q, p)."""
    assert relations.teacher is not None, "the pairs were read without teacher scores"
    teacher = relations.teacher.to(queries.dtype)
    scored = teacher.isfinite() & (relations.negative | relations.is_target)
    return queries @ passages.T / temperature, teacher.nan_to_num(nan=0.0), scored
