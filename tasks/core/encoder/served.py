"""An encoder that only serves: stored OpenVINO graphs encode, without the classes and weights that training needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tasks.core.base.sections.embedding import Precision
from tasks.core.encoder.backends import graph
from tasks.core.encoder.backends.openvino import OpenVino
from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.encoder.passage_map import read_map
from tasks.core.encoder.serving import ServingEncoder, ServingTower, TokenIds
from tasks.core.encoder.tower import Side


class GraphTower(ServingTower):
    """One side of an encoder. Its graph gives the vectors of a `Tower` with the same backend."""

    def __init__(self, folder: Path, side: Side, longest: int, tokenizer: Any, backend: OpenVino) -> None:
        """`folder` may hold a map; `longest`: maximum number of input tokens, 0 if unlimited."""
        self.tokenizer, self.prompt = tokenizer, side.prompt
        self.max_tokens = min(side.max_tokens, longest or side.max_tokens)
        self.passage_map, self.backend = read_map(folder), backend

    def encode_trunk(self, ids: TokenIds, token_budget: int) -> np.ndarray:
        """Compute vectors as `encode` does, but without the map."""
        return self.backend.encode(ids, token_budget)


class GraphEncoder(ServingEncoder):
    """An encoder with a stored graph for each distinct tower."""

    query: GraphTower
    passage: GraphTower

    def __init__(self, query: GraphTower, passage: GraphTower, fingerprint: str) -> None:
        self.query, self.passage, self.fingerprint = query, passage, fingerprint

    @property
    def dimension(self) -> int:
        """Length of a served vector."""
        dimension: int = self.passage.backend.dimension
        return dimension


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
    return GraphEncoder(towers[0], towers[1], fingerprint)
