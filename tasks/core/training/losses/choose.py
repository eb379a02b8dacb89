"""Select the loss that the settings name, with its parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from tasks.core.base.sections.training import TrainingSettings
from tasks.core.encoder.pooling import prefixes
from tasks.core.training.losses.distillation import kl, margin_mse
from tasks.core.training.losses.infonce import infonce
from tasks.core.training.losses.relations import Relations
from tasks.core.training.losses.supcon import supcon
from tasks.core.training.losses.triplet import triplet

Loss = Callable[[Tensor, Tensor, Relations], Tensor]


def choose_loss(settings: TrainingSettings) -> Loss:
    """Return the configured loss: (queries (q, d), passages (p, d), relations) → scalar."""
    losses: dict[str, Loss] = {
        "infonce": partial(infonce, temperature=settings.temperature, directions=settings.directions),
        "triplet": partial(triplet, margin=settings.margin),
        "supcon": partial(supcon, temperature=settings.temperature),
        "margin_mse": partial(margin_mse, temperature=settings.temperature),
        "kl": partial(kl, temperature=settings.temperature),
    }
    if settings.distills and settings.contrastive_share > 0:
        return _mixed(losses["infonce"], losses[settings.loss], settings.contrastive_share)
    return losses[settings.loss]


def _mixed(contrastive: Loss, distillation: Loss, share: float) -> Loss:
    """Return share · contrastive + (1 - share) · distillation."""

    def mixed_loss(queries: Tensor, passages: Tensor, relations: Relations) -> Tensor:
        return share * contrastive(queries, passages, relations) + (1 - share) * distillation(
            queries, passages, relations
        )

    return mixed_loss


def matryoshka(loss: Loss, dimensions: Sequence[int], *, normalize: bool) -> Loss:
    """Average `loss` over the full vectors and their prefixes of these dimensions, so vectors can be truncated.

    Kusupati et al., "Matryoshka Representation Learning" (2022), with equal weights.
    """
    if not dimensions:
        return loss

    def mean_loss(queries: Tensor, passages: Tensor, relations: Relations) -> Tensor:
        pairs = zip(*(prefixes(side, dimensions, normalize) for side in (queries, passages)), strict=True)
        return torch.stack([loss(left, right, relations) for left, right in pairs]).mean()

    return mean_loss
