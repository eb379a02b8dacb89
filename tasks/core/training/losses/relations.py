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
    """

    target: Tensor
    positive: Tensor
    known: Tensor
    teacher: Tensor | None = None

    @property
    def negative(self) -> Tensor:
        """Passages that a query may be pushed away from, bool (q, p)."""
        return ~self.known

    @property
    def is_target(self) -> Tensor:
        """The positive of each query's pair, bool (q, p)."""
        return torch.arange(self.known.shape[1], device=self.target.device) == self.target[:, None]
