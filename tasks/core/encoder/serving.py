"""What every encoder does with texts: `DualEncoder`, which can be trained, and `GraphEncoder`, which only serves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.core.encoder.tokenizing import token_ids

if TYPE_CHECKING:
    from tasks.core.encoder.passage_map import PassageMap

TokenIds = Sequence[Sequence[int]]  # lists, or int32 arrays
TOKEN_BUDGET = 2048  # padded tokens in a batch, on a CPU


class ServingTower(ABC):
    """One side of an encoder."""

    tokenizer: Any
    prompt: str  # prepended to every input
    max_tokens: int  # limit on the tokens of prompt + text
    passage_map: PassageMap | None

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompt + text, cut at `max_tokens`, without padding: one list for each text."""
        return token_ids(self.tokenizer, [self.prompt + text for text in texts], self.max_tokens)

    def encode(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute the served vectors, float32 (n, dimension) in main memory: without gradients, cut to `dimension`."""
        vectors = self.encode_trunk(ids, token_budget)
        return vectors if self.passage_map is None else self.passage_map.map_vectors(vectors)

    @abstractmethod
    def encode_trunk(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute vectors as `encode` does, but without the map."""


class ServingEncoder(ABC):
    """A query encoder and a passage encoder."""

    query: ServingTower
    passage: ServingTower
    fingerprint: str
    token_budget = TOKEN_BUDGET

    @property
    @abstractmethod
    def dimension(self) -> int:
        """Length of a served vector."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries. Returns float32 (n, dimension)."""
        return self.query.encode(self.query.tokenize(texts), self.token_budget)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Encode passages, each given as title and body joined by `full_text`. Returns float32 (n, dimension)."""
        return self.passage.encode(self.passage.tokenize(texts), self.token_budget)
