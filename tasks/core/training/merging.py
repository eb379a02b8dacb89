"""Averages of the weights of encoders with the same shape: linear, spherical, and the mean of several."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tasks.core.training.checkpoint import Weights

PARALLEL = 1e-6  # radians; below this angle the spherical average equals the linear average


def linear(left: Weights, right: Weights, share: float) -> Weights:
    """Return `left` + `share` · (`right` − `left`) for each tensor of `right`.

    Wortsman et al. 2022, "Robust fine-tuning of zero-shot models" (WiSE-FT), equation 1; Xiao et al. 2023,
    "LM-Cocktail", merge a fine-tuned encoder with its base in the same way. Equal tensors are returned unchanged.
    """
    return {name: torch.lerp(left[name], weight, share) for name, weight in right.items()}


def spherical(left: Weights, right: Weights, share: float) -> Weights:
    """Return, for each tensor of `right`, the point at `share` of the way from `left` to `right` on the arc.

    (sin((1 − share)·Ω) · left + sin(share·Ω) · right) / sin Ω, with the angle Ω between the flattened tensors: Shoemake
    1985, "Animating rotation with quaternion curves", section 3.3. Tensors that are parallel or zero are averaged
    linearly. Angles are computed in float64.
    """
    return {name: _arc(left[name], weight, share) for name, weight in right.items()}


def _arc(left: Tensor, right: Tensor, share: float) -> Tensor:
    first, second = left.flatten().double(), right.flatten().double()
    norms = first.norm() * second.norm()
    if norms == 0:
        return torch.lerp(left, right, share)
    angle = torch.acos((first.dot(second) / norms).clamp(-1, 1))
    if angle < PARALLEL or angle > torch.pi - PARALLEL:
        return torch.lerp(left, right, share)
    point = (torch.sin((1 - share) * angle) * first + torch.sin(share * angle) * second) / torch.sin(angle)
    return point.to(left.dtype).view_as(left)


def mean(weights: Sequence[Weights]) -> Weights:
    """Return the mean of each tensor: a uniform soup (Wortsman et al. 2022, "Model soups", section 2)."""
    return {name: torch.stack([each[name] for each in weights]).mean(dim=0) for name in weights[0]}
