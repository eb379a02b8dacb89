"""Token states into one vector a text, and the prefixes of a vector that Matryoshka training looks at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def pool(states: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """Vectors (n, width) of states (n, longest, width); mask: bool (n, longest), true on tokens, which come first.

    `how`: "mean" of the tokens' states, the state of the first ("cls") or of the last token ("last"). Without a mask
    no row has padding.
    """
    if how == "cls":
        return states[:, 0]
    if mask is None:
        return states[:, -1] if how == "last" else states.mean(dim=1)
    lengths = mask.sum(dim=1)
    if how == "last":
        return states[torch.arange(states.shape[0], device=states.device), lengths - 1]
    return (states * mask[:, :, None]).sum(dim=1) / lengths[:, None].to(states)


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
