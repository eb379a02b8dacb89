"""What a batch says about its queries and passages, in the one form that every loss reads."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Relations:
    """Which passages are whose, for q queries and p passages; all tensors on one device.

    own: int64 (q,), the row of each query's own positive.
    positive: bool (q, p), judged positives by id or equal text, the own one included: what may be pulled nearer.
    known: bool (q, p), those and their near duplicates: what is never pushed away.
    teacher: float (q, p), scores of a stronger model, NaN where it gave none; None without a teacher.
    """

    own: Tensor
    positive: Tensor
    known: Tensor
    teacher: Tensor | None = None

    @property
    def negative(self) -> Tensor:
        """bool (q, p): what a query may be pushed away from."""
        return ~self.known

    @property
    def is_own(self) -> Tensor:
        """bool (q, p): true at each query's own positive alone."""
        return torch.arange(self.known.shape[1], device=self.own.device) == self.own[:, None]
