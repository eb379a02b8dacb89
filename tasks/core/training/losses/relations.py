"""Relations between the queries and passages of a batch: the input of every loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relations:
    """Positives and masks of a batch with q queries and p passages; all tensors on one device.

    target: int64 (q,), the passage row of the positive of each query's pair.
    positive: bool (q, p), judged positives by id or equal text, `target` included. Losses may pull them closer.
    known: bool (q, p), judged positives and their near duplicates. Losses never push them away.
    teacher: float (q, p), scores of a stronger model, NaN where missing; None without a teacher.
    weight: float (q,), the weight of each query's pair, above 0; None: all pairs count the same.
    """

    target: Tensor
    positive: Tensor
    known: Tensor
    teacher: Tensor | None = None
    weight: Tensor | None = None

    @property
    def negative(self) -> Tensor:
        """Passages that a query may be pushed away from, bool (q, p)."""
        return ~self.known

    @property
    def is_target(self) -> Tensor:
        """The positive of each query's pair, bool (q, p)."""
        return torch.arange(self.known.shape[1], device=self.target.device) == self.target[:, None]

    def mean(self, terms: Tensor, counted: Tensor) -> Tensor:
        """Return the mean of the counted terms, each with the weight of its query's pair; 0 if none is counted.

        Args:
            terms: float (q,) or (q, n), finite.
            counted: bool, same shape.
        """
        if self.weight is None:
            return (terms * counted).sum() / counted.sum().clamp(min=1)
        weight = self.weight.to(terms.dtype).view(-1, *[1] * (terms.ndim - 1)) * counted
        return (terms * weight).sum() / weight.sum().clamp(min=torch.finfo(terms.dtype).tiny)
