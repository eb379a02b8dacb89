"""An encoder that only serves: stored OpenVINO graphs encode, without the classes and weights that training needs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from tasks.core.base.sections.embedding import Precision
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.openvino import OpenVino
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.encoder.passage_map import read_map
from tasks.core.encoder.tokenizing import token_ids
from tasks.core.encoder.tower import Side, TokenIds

TOKEN_BUDGET = 2048  # padded tokens in a batch, on a CPU


class ServingTower(Protocol):
    """One side of an encoder, as its users see it; see `Tower` and `DualEncoder`."""

    tokenizer: Any

    @property
    def prompt(self) -> str:
        """Prepended to every input."""

    @property
    def max_tokens(self) -> int:
        """Limit on the tokens of prompt + text."""

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompt + text, cut at `max_tokens`."""

    def encode(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute the served vectors, float32 (n, dimension)."""

    def encode_trunk(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute vectors as `encode` does, but without the map."""


class ServingEncoder(Protocol):
    """A loaded encoder: `DualEncoder` or `GraphEncoder`."""

    fingerprint: str
    token_budget: int

    @property
    def query(self) -> ServingTower:
        """The side of queries."""

    @property
    def passage(self) -> ServingTower:
        """The side of passages."""

    @property
    def dimension(self) -> int:
        """Length of a served vector."""

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries. Returns float32 (n, dimension)."""

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Encode passages, each given as title and body joined by `full_text`. Returns float32 (n, dimension)."""


class GraphTower:
    """One side of an encoder. Its graph gives the vectors of a `Tower` with the same backend."""

    def __init__(self, folder: Path, side: Side, longest: int, tokenizer: Any, backend: OpenVino) -> None:
        """`folder` may hold a map; `longest`: maximum number of input tokens, 0 if unlimited."""
        self.tokenizer, self.prompt = tokenizer, side.prompt
        self.max_tokens = min(side.max_tokens, longest or side.max_tokens)
        self._map, self._backend = read_map(folder), backend

    def tokenize(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of prompt + text, cut at `max_tokens`, without padding: one list for each text."""
        return token_ids(self.tokenizer, [self.prompt + text for text in texts], self.max_tokens)

    def encode(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute the served vectors, float32 (n, dimension)."""
        vectors = self.encode_trunk(ids, token_budget)
        return vectors if self._map is None else self._map.map_vectors(vectors)

    def encode_trunk(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute vectors as `encode` does, but without the map."""
        return self._backend.encode(ids, token_budget)


class GraphEncoder:
    """An encoder with a stored graph for each distinct tower."""

    def __init__(self, query: GraphTower, passage: GraphTower, dimension: int, fingerprint: str) -> None:
        self.query, self.passage, self.dimension, self.fingerprint = query, passage, dimension, fingerprint
        self.token_budget = TOKEN_BUDGET

    def encode_queries(self, texts: Sequence[str]) -> np.ndarray:
        """Encode queries. Returns float32 (n, dimension)."""
        return self.query.encode(self.query.tokenize(texts), self.token_budget)

    def encode_passages(self, texts: Sequence[str]) -> np.ndarray:
        """Encode passages, each given as title and body joined by `full_text`. Returns float32 (n, dimension)."""
        return self.passage.encode(self.passage.tokenize(texts), self.token_budget)


def open_graphs(
    query: tuple[Path, Side], passage: tuple[Path, Side], path: Precision, fingerprint: str
) -> GraphEncoder | None:
    """Open an encoder from its graphs; return None if a graph is missing, or an earlier version wrote it.

    Args:
        query: model folder and side of queries.
        passage: of passages; the same folder if they share weights.
        path: a numeric path of OpenVINO.
        fingerprint: of the encoder.

    Raises:
        Mismatch: an int8 graph is missing.
    """
    backends: dict[Path, tuple[OpenVino, int]] = {}
    towers = []
    for folder, side in (query, passage):
        tokenizer = read_tokenizer(folder)  # each side needs its own
        if folder not in backends:
            model = graph.read(folder, path)
            longest = None if model is None else graph.longest_of(model)
            if longest is None:
                return None
            pad, threads = tokenizer.pad_token_id or 0, torch.get_num_threads()
            backends[folder] = OpenVino(model, path, pad, longest or sys.maxsize, threads), longest
        backend, longest = backends[folder]
        towers.append(GraphTower(folder, side, longest, tokenizer, backend))
    return GraphEncoder(towers[0], towers[1], backends[passage[0]][0].dimension, fingerprint)
