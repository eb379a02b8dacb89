"""Learning from a teacher's scores: by margins, or by the whole distribution.

A student's score is s = q·p/τ. τ = 1 is the published form for free inner products; for unit vectors τ brings a
cosine to the scale of a teacher's scores. Passages that the teacher has not scored take no part, known positives
other than the own one neither: what a teacher thinks of them is no reason to push them away.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tasks.core.training.losses.relations import Relations


def margin_mse(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Mean of ((s⁺ − s⁻) − (t⁺ − t⁻))² over all scored negatives of queries whose own positive is scored.

    Hofstätter et al., "Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge Distillation"
    (2020), equation 3.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: with the teacher's scores t.
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type; 0 when nothing is scored.
    """
    student, teacher, scored = _scores(queries, passages, relations, temperature)
    own = relations.own[:, None]
    pairs = scored & relations.negative & scored.gather(1, own)
    error = (student.gather(1, own) - student) - (teacher.gather(1, own) - teacher)
    return (error.masked_fill(~pairs, 0) ** 2).sum() / pairs.sum().clamp(min=1)


def kl(queries: Tensor, passages: Tensor, relations: Relations, *, temperature: float) -> Tensor:
    """Mean over queries of KL( softmax(t) ‖ softmax(s) ), both over the query's scored passages.

    Hinton et al., "Distilling the Knowledge in a Neural Network" (2015), over a query's candidates as in Ren et al.,
    "RocketQAv2" (2021), equation 3. A query with fewer than two scored passages says nothing and is left out.

    Args:
        queries: float (q, d).
        passages: float (p, d).
        relations: with the teacher's scores t.
        temperature: τ > 0.

    Returns:
        A scalar of the vectors' type; 0 when nothing is scored.
    """
    student, teacher, scored = _scores(queries, passages, relations, temperature)
    asked = scored.sum(dim=1) > 1
    scored = scored | ~asked[:, None]  # a row without any score would be NaN; it is left out below
    log_student = student.masked_fill(~scored, -torch.inf).log_softmax(dim=1)
    log_teacher = teacher.masked_fill(~scored, -torch.inf).log_softmax(dim=1)
    gap = (log_teacher - log_student).masked_fill(~scored, 0)
    divergence = (log_teacher.exp() * gap).sum(dim=1)
    return (divergence * asked).sum() / asked.sum().clamp(min=1)


def _scores(
    queries: Tensor, passages: Tensor, relations: Relations, temperature: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's scores (q, p), the latter 0 where missing, and which of them count: bool (q, p)."""
    assert relations.teacher is not None, "the pairs were read without teacher scores"
    teacher = relations.teacher.to(queries.dtype)
    scored = teacher.isfinite() & (relations.negative | relations.is_own)
    return queries @ passages.T / temperature, teacher.nan_to_num(nan=0.0), scored
