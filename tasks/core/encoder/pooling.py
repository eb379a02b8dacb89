"""Pool token states into one vector for each text, and cut vectors to the prefixes that Matryoshka training uses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SENTENCE_TRANSFORMERS = {  # our name -> name in a Pooling module's config, and the key used before release 6
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "cls": ("cls", "pooling_mode_cls_token"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
    "max": ("max", "pooling_mode_max_tokens"),
    "weighted_mean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "mean_sqrt_len": ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
}


def pool(states: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """Pool token states into vectors.

    states: (n, longest, width). mask: bool (n, longest), true on tokens, padding on the right; None: no padding.
    how: "cls" (state of the first token), "last" (state of the last token), "max" (maximum of each component), "mean",
        "weighted_mean" (weighted by position, from 1), or "mean_sqrt_len" (sum divided by the square root of the number
        of tokens).

    Returns vectors (n, width).
    """
    if how == "cls":
        return states[:, 0]
    if mask is None and how == "mean":
        return states.mean(dim=1)
    if mask is None:
        mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    lengths = mask.sum(dim=1)
    if how == "last":
        return states[torch.arange(states.shape[0], device=states.device), lengths - 1]
    if how == "max":
        return states.masked_fill(~mask[:, :, None], float("-inf")).amax(dim=1)
    if how == "weighted_mean":
        weights = mask * torch.arange(1, states.shape[1] + 1, device=states.device)
        return (states * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1)[:, None].to(states)
    total = lengths[:, None].to(states)
    return (states * mask[:, :, None]).sum(dim=1) / (total.sqrt() if how == "mean_sqrt_len" else total)


def prefixes(vectors: Tensor, dimensions: Sequence[int], normalize: bool) -> list[Tensor]:
    """Return the vectors (n, width) and their first d numbers for each d in `dimensions`, longest first.

    With `normalize`, scale each to length 1 again, as in serving. A Matryoshka loss (Kusupati et al. 2022,
    "Matryoshka Representation Learning") is the mean of a loss over these prefixes of queries and passages.
    """
    sizes = sorted({*dimensions, vectors.shape[-1]}, reverse=True)
    return [prefix(vectors, dimension, normalize) for dimension in sizes]


def prefix(vectors: Tensor, dimension: int, normalize: bool) -> Tensor:
    """Return the first `dimension` numbers of vectors (n, width), scaled to length 1 again if `normalize`."""
    if dimension == vectors.shape[-1]:
        return vectors
    cut = vectors[..., :dimension]
    return nn.functional.normalize(cut, dim=-1) if normalize else cut
