"""Exact gradients of a loss over a batch of any size, in the memory of one chunk of texts.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021): encode all texts without
a graph, take the loss and its gradient with respect to the vectors, then encode chunk by chunk once more and send
each chunk's part of that gradient on into the weights. A batch that fits in memory keeps its graphs instead, which
saves the second encoding; everything else is the same, to the last chunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

TokenIds = list[list[int]]
Autocast = Callable[[], AbstractContextManager[object]]


@dataclass
class _Chunk:
    side: int
    rows: Tensor  # int64: which of the side's texts, ascending in length
    state: Tensor  # of the random generator before the chunk: the same dropout in both encodings
    vectors: Tensor | None  # with their graph; None when they are to be made again


class Forward:
    """Texts encoded by their towers, and the way back into the weights.

    `vectors` are float tensors (n, d), one for each of `texts`, in the order of the texts. They are leaves: a loss's
    gradient ends at them. Those of a tower without trainable weights want no gradient.
    """

    def __init__(
        self, texts: Sequence[tuple[nn.Module, TokenIds]], chunk_tokens: int, *, keep: bool, autocast: Autocast
    ) -> None:
        """Encode `texts`, pairs of a tower (called with token ids and a budget) and what it shall encode.

        chunk_tokens: most padded tokens of a chunk, unless one text alone has more.
        keep: hold the graphs of all chunks until `backward`.
        autocast: makes the numeric context of one chunk; a fresh one each time, since casts of weights that are
            cached without a graph must not be met by the encoding that needs one.
        """
        self._texts, self._budget, self._autocast = texts, chunk_tokens, autocast
        self._chunks: list[_Chunk] = []
        self.vectors = [self._encode(side, keep) for side in range(len(texts))]

    def backward(self, gradients: Sequence[Tensor | None]) -> None:
        """Add to the weights' `.grad` what `gradients` with respect to `vectors` make of them; can be done once."""
        for chunk in self._chunks:
            gradient = gradients[chunk.side]
            if gradient is not None:
                vectors = self._again(chunk) if chunk.vectors is None else chunk.vectors
                vectors.backward(gradient[chunk.rows.to(gradient.device)])
            chunk.vectors = None  # activations are given back as soon as they are used

    def _encode(self, side: int, keep: bool) -> Tensor:
        tower, ids = self._texts[side]
        trained = any(parameter.requires_grad for parameter in tower.parameters())
        device = next(tower.parameters()).device
        parts, order = [], []
        for rows in _chunks_of(ids, self._budget):
            state = _generator_state(device)
            with torch.set_grad_enabled(keep and trained):
                vectors = self._forward(side, rows)
            parts.append(vectors.detach())
            order.append(rows)
            if trained:
                self._chunks.append(_Chunk(side, rows, state, vectors if keep else None))
        together = torch.cat(parts)
        back = torch.argsort(torch.cat(order)).to(together.device)
        return together[back].requires_grad_(trained)

    def _again(self, chunk: _Chunk) -> Tensor:
        _set_generator(next(self._texts[chunk.side][0].parameters()).device, chunk.state)
        return self._forward(chunk.side, chunk.rows)

    def _forward(self, side: int, rows: Tensor) -> Tensor:
        tower, ids = self._texts[side]
        with self._autocast():
            vectors: Tensor = tower([ids[row] for row in rows.tolist()], self._budget)
        return vectors


def _chunks_of(ids: TokenIds, budget: int) -> list[Tensor]:
    """Rows by rising length, cut where rows × longest would pass the budget: no chunk is divided further in a tower."""
    chunks: list[list[int]] = [[]]
    for row in sorted(range(len(ids)), key=lambda row: len(ids[row])):
        if chunks[-1] and (len(chunks[-1]) + 1) * len(ids[row]) > budget:
            chunks.append([])
        chunks[-1].append(row)
    return [torch.tensor(chunk) for chunk in chunks]


def _generator_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()


def _set_generator(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)
