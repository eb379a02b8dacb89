"""The loss that the settings name, with its dials filled in."""

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
TAUGHT = ("margin_mse", "kl")  # losses that need teacher scores


def choose_loss(settings: TrainingSettings) -> Loss:
    """(queries (q, d), passages (p, d), relations) → scalar."""
    losses: dict[str, Loss] = {
        "infonce": partial(infonce, temperature=settings.temperature, directions=settings.directions),
        "triplet": partial(triplet, margin=settings.margin),
        "supcon": partial(supcon, temperature=settings.temperature),
        "margin_mse": partial(margin_mse, temperature=settings.temperature),
        "kl": partial(kl, temperature=settings.temperature),
    }
    return losses[settings.loss]


def matryoshka(loss: Loss, dimensions: Sequence[int], *, normalize: bool) -> Loss:
    """The mean of `loss` over whole vectors and over their first so many numbers, so that a vector may be cut there.

    Kusupati et al., "Matryoshka Representation Learning" (2022), with equal weights.
    """
    if not dimensions:
        return loss

    def mean(queries: Tensor, passages: Tensor, relations: Relations) -> Tensor:
        cuts = zip(*(prefixes(side, dimensions, normalize) for side in (queries, passages)), strict=True)
        return torch.stack([loss(left, right, relations) for left, right in cuts]).mean()

    return mean
