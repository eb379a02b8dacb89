"""Training passages as stored vectors of the frozen trunk: a training step maps them instead of encoding texts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.embedding.derived import trunk_of
from tasks.core.embedding.shards import gather_shards
from tasks.core.embedding.stored_shards import read_vectors, shard_files
from tasks.core.embedding.text_index import find_rows, index_of
from tasks.core.encoder.passage_map import PassageMap


class StoredTrunk(nn.Module):
    """Takes the place of the passage tower in a step: `take` returns row numbers in place of token ids."""

    def __init__(self, passage_map: PassageMap, vectors: np.ndarray) -> None:
        """Wrap the map that is trained, and the trunk's vectors float32 (passages, width), in main memory."""
        super().__init__()
        self.passage_map, self._vectors = passage_map, torch.from_numpy(vectors)

    def take(self, rows: Iterable[int]) -> list[list[int]]:
        """Return each row as a text of one token: its number."""
        return [[int(row)] for row in rows]

    def forward(self, rows: Sequence[Sequence[int]], token_budget: int) -> Tensor:
        """Return the mapped vectors float32 (n, width) of the rows; `token_budget` is not needed."""
        numbers = torch.tensor([row[0] for row in rows])
        mapped: Tensor = self.passage_map(self._vectors[numbers].to(self.passage_map.bias.device))
        return mapped


def embed_trunk(start: Encoder, snapshots: Sequence[Snapshot], settings: EmbeddingSettings) -> tuple[Embeddings, ...]:
    """Return the vectors of the start encoder's trunk for the passages of each snapshot, embedded if missing."""
    trunk = trunk_of(start) or start
    return tuple(
        gather_shards(snapshot.path.parents[1], trunk, snapshot, settings.shards, vectors=settings.vectors)
        for snapshot in snapshots
    )


def load_trunk(embeddings: Sequence[Embeddings], hashes: np.ndarray) -> np.ndarray:
    """Read the trunk's vector of each text: float32 (passages, width).

    Args:
        embeddings: vectors of the snapshots that contain the texts.
        hashes: text hashes S16 (passages,).

    Raises:
        Mismatch: a text is in none of the snapshots.
        Damaged: a shard does not match its checksum.
    """
    vectors = np.empty((len(hashes), embeddings[0].dimension), np.float32)
    missing = np.arange(len(hashes))
    for source in embeddings:
        index = index_of(source.path.parents[1], source.snapshot)
        if index is None:
            continue
        rows = find_rows(index, hashes[missing])
        known = missing[rows >= 0]
        for positions, stored in read_vectors(shard_files(source), rows[rows >= 0], source.dimension):
            vectors[known[positions]] = stored
        missing = missing[rows < 0]
    if len(missing):
        raise Mismatch(f"{len(missing)} of {len(hashes)} training passages have no stored vector of the trunk")
    return vectors
