"""One side of a dual encoder: texts → token ids → transformer → pooled, projected, normalized vectors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.base.errors import NightshiftError
from tasks.core.encoder.backends.batches import padded_batches
from tasks.core.encoder.damage import damaged
from tasks.core.encoder.dense_module import Projection, load_projection
from tasks.core.encoder.model_parts import longest_input, read_tokenizer, read_transformer
from tasks.core.encoder.passage_map import PassageMap, read_map
from tasks.core.encoder.pooling import pool, prefix
from tasks.core.encoder.serving import ServingTower, TokenIds

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Backend(Protocol):
    """Encodes in place of torch."""

    def encode(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Encode at least one text, as `Tower.encode` does."""


class Side(NamedTuple):
    """How one side turns a text into a vector, in addition to its weights."""

    pooling: str  # see `pool`
    normalize: bool  # scale every vector to length 1
    dimension: int  # vector length after the projection; 0: no projection
    serve_dimension: int  # serve only the first N numbers of a vector; 0: all
    prompt: str  # prepended to every input
    max_tokens: int  # limit on the tokens of prompt + text, special tokens included


class Tower(nn.Module, ServingTower):
    """A transformer, a pooling over its last hidden states, an optional projection by Dense modules, and a map.

    Everything before the map is the trunk.

    Raises NightshiftError when `serve_dimension` exceeds the vector length, or the side of a tower with a map does not
    return whole vectors of length 1.
    """

    def __init__(
        self,
        tokenizer: Any,
        transformer: PreTrainedModel,
        projection: Projection | None,
        side: Side,
        passage_map: PassageMap | None = None,
    ) -> None:
        super().__init__()
        self.tokenizer, self.transformer, self.projection, self.side = tokenizer, transformer, projection, side
        self.passage_map = passage_map
        self.prompt, self.normalize = side.prompt, side.normalize
        self.backend: Backend | None = None  # None: torch encodes
        self.max_tokens = min(side.max_tokens, longest_input(transformer) or side.max_tokens)
        if side.serve_dimension > self.width:
            raise NightshiftError(
                f"[encoder] serve_dimension = {side.serve_dimension}: its vectors have {self.width} numbers; "
                "give fewer, or 0 for all"
            )
        if passage_map is not None and (side.serve_dimension or not side.normalize):
            raise NightshiftError(
                "[encoder] the vectors of an encoder with a passage map are whole and have length 1: set "
                'serve_dimension = 0 and normalize = true, or set start = "base" for one night'
            )

    @classmethod
    def open(cls, folder: Path, side: Side) -> Tower:
        """Read a model folder that `layout.write_tower` wrote.

        Raises Damaged when its Dense modules do not give vectors of `side.dimension` numbers.
        """
        projection = load_projection(folder) if side.dimension else None
        if side.dimension and (projection is None or projection.out_features != side.dimension):
            raise damaged(f"encoder {folder}: its Dense modules do not give vectors of {side.dimension} numbers")
        return cls(read_tokenizer(folder), read_transformer(folder), projection, side, read_map(folder))

    def twin(self, tokenizer: Any, side: Side) -> Tower:
        """Return a tower with the same weights for the other side. The tokenizer must be a separate one."""
        return Tower(tokenizer, self.transformer, self.projection, side, self.passage_map)

    @property
    def width(self) -> int:
        """Length of a vector in training."""
        hidden: int = self.transformer.config.hidden_size
        return hidden if self.projection is None else self.projection.out_features

    @property
    def dimension(self) -> int:
        """Length of a served vector."""
        return self.side.serve_dimension or self.width

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    @property
    def is_trained(self) -> bool:
        """False when every weight of the trunk is frozen."""
        trunk = (parameter for name, parameter in self.named_parameters() if not name.startswith("passage_map."))
        return any(parameter.requires_grad for parameter in trunk)

    def train(self, mode: bool = True) -> Tower:
        """Set training mode. A frozen trunk stays in evaluation mode, without dropout."""
        return super().train(mode and self.is_trained)

    def set_dropout(self, share: float) -> None:
        """Set the dropout rate for activations and attention weights, overriding the model's config."""
        for module in self.modules():
            if isinstance(module, nn.Dropout):
                module.p = share
            elif isinstance(getattr(module, "attention_dropout", None), float):
                setattr(module, "attention_dropout", share)  # noqa: B010  (a plain float among a module's tensors)

    def forward(self, ids: TokenIds, token_budget: int) -> Tensor:
        """Compute vectors float32 (n, width), in the order of `ids`.

        Texts of similar length are batched, with at most `token_budget` padded tokens in a batch. This wastes little
        on padding and keeps activations in the CPU cache.
        """
        vectors = self._trunk(ids, token_budget)
        return vectors if self.passage_map is None else self.passage_map(vectors)

    def _trunk(self, ids: TokenIds, token_budget: int) -> Tensor:
        batches = padded_batches([len(row) for row in ids], token_budget)
        vectors = torch.cat([self._vectors(ids, rows) for rows in batches])
        positions = torch.empty(len(ids), dtype=torch.long)
        positions[torch.tensor(list(chain.from_iterable(batches)))] = torch.arange(len(ids))
        return vectors[positions.to(vectors.device)]

    def encode_trunk(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute vectors as `encode` does, but without the map."""
        if len(ids) == 0:
            return np.zeros((0, self.dimension), np.float32)
        if self.backend is not None:
            return self.backend.encode(ids, token_budget)
        self.eval()
        with torch.inference_mode():
            return prefix(self._trunk(ids, token_budget), self.dimension, self.normalize).cpu().numpy()

    def _vectors(self, ids: TokenIds, rows: Sequence[int]) -> Tensor:
        lengths = torch.tensor([len(ids[row]) for row in rows])
        width = int(lengths.max())
        padded = np.full((len(rows), width), self.tokenizer.pad_token_id or 0)
        for line, row in zip(padded, rows, strict=True):
            line[: len(ids[row])] = ids[row]
        tokens = torch.from_numpy(padded).to(self.device)
        # A batch without padding needs no mask, and attention without a mask is faster.
        mask = None if int(lengths.min()) == width else torch.arange(width)[None, :] < lengths[:, None]
        mask = None if mask is None else mask.to(self.device)
        states = self.transformer(input_ids=tokens, attention_mask=None if mask is None else mask.long())
        vectors = pool(states.last_hidden_state.float(), mask, self.side.pooling)
        if self.projection is not None:
            with torch.autocast(vectors.device.type, enabled=False):  # in float32, as in serving
                vectors = self.projection(vectors)
        return nn.functional.normalize(vectors, dim=-1) if self.normalize else vectors
