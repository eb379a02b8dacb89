"""Exact gradients of a loss over a batch of any size, in the memory of one chunk of texts.

Gao et al., "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup" (2021): encode all texts without
a graph, compute the loss and its gradient with respect to the vectors, then encode each chunk again and backpropagate
its part of that gradient. A batch that fits in memory keeps its graphs, which saves the second encoding; the chunks
are the same in both cases.
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
    rows: Tensor  # int64, rows of the side's texts, ascending in length
    state: Tensor  # of the random generator before the chunk, for the same dropout in both encodings
    vectors: Tensor | None  # with their graph; None if `backward` must encode the chunk again


class Forward:
    """Encode texts with their towers, and backpropagate gradients of the vectors into the weights.

    `vectors` holds a float tensor (n, d) for each item of `texts`, in the order of the texts. The tensors are leaves of
    the autograd graph. Vectors of a tower without trainable weights require no gradient.
    """

    def __init__(
        self, texts: Sequence[tuple[nn.Module, TokenIds]], chunk_tokens: int, *, keep: bool, autocast: Autocast
    ) -> None:
        """Encode `texts`.

        Args:
            texts: pairs of a tower (called with token ids and a budget) and the token ids to encode.
            chunk_tokens: maximum number of padded tokens per chunk; a longer text is a chunk of its own.
            keep: keep the graphs of all chunks until `backward`.
            autocast: makes the autocast context of one chunk. Each chunk needs a new context, because autocast caches
                weight casts, and casts cached without a graph would break the second encoding.
        """
        self._texts, self._budget, self._autocast = texts, chunk_tokens, autocast
        self._chunks: list[_Chunk] = []
        self.vectors = [self._encode(side, keep) for side in range(len(texts))]

    def backward(self, gradients: Sequence[Tensor | None]) -> None:
        """Backpropagate the gradients of `vectors` into the weights' `.grad`. Call it once."""
        for chunk in self._chunks:
            gradient = gradients[chunk.side]
            if gradient is not None:
                vectors = self._encode_again(chunk) if chunk.vectors is None else chunk.vectors
                vectors.backward(gradient[chunk.rows.to(gradient.device)])
            chunk.vectors = None  # frees the activations

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
        vectors = torch.cat(parts)
        original = torch.argsort(torch.cat(order)).to(vectors.device)
        return vectors[original].requires_grad_(trained)

    def _encode_again(self, chunk: _Chunk) -> Tensor:
        _set_generator(next(self._texts[chunk.side][0].parameters()).device, chunk.state)
        return self._forward(chunk.side, chunk.rows)

    def _forward(self, side: int, rows: Tensor) -> Tensor:
        tower, ids = self._texts[side]
        with self._autocast():
            vectors: Tensor = tower([ids[row] for row in rows.tolist()], self._budget)
        return vectors


def _chunks_of(ids: TokenIds, budget: int) -> list[Tensor]:
    """Sort rows by length and split them where rows × longest would exceed the budget, so towers do not split again."""
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
