"""Token states into one vector a text, and the prefixes of a vector that Matryoshka training looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

SENTENCE_TRANSFORMERS = {  # our name -> theirs in a Pooling module's config, and the key of releases before 6
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "cls": ("cls", "pooling_mode_cls_token"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
    "max": ("max", "pooling_mode_max_tokens"),
    "weighted_mean": ("weightedmean", "pooling_mode_weightedmean_tokens"),
    "mean_sqrt_len": ("mean_sqrt_len_tokens", "pooling_mode_mean_sqrt_len_tokens"),
}


def pool(states: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """Vectors (n, width) of states (n, longest, width); mask: bool (n, longest), true on tokens, which come first.

    `how`: the state of the first ("cls") or of the last token ("last"); of all tokens the greatest number in each
    place ("max"), the mean ("mean"), the mean weighted by position, from 1 ("weighted_mean"), or the sum over the
    square root of their number ("mean_sqrt_len"). Without a mask no row has padding.
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
    """The vectors (n, width) themselves and their first d numbers for each d of `dimensions`, longest first.

    With `normalize` each is scaled to length 1 again, as serving does. A Matryoshka loss (Kusupati et al. 2022,
    "Matryoshka Representation Learning") is the mean of one loss over these, queries and passages cut alike.
    """
    wanted = sorted({*dimensions, vectors.shape[-1]}, reverse=True)
    return [prefix(vectors, one, normalize) for one in wanted]


def prefix(vectors: Tensor, dimension: int, normalize: bool) -> Tensor:
    """The first `dimension` numbers of vectors (n, width), scaled to length 1 again when `normalize`."""
    if dimension == vectors.shape[-1]:
        return vectors
    cut = vectors[..., :dimension]
    return nn.functional.normalize(cut, dim=-1) if normalize else cut
