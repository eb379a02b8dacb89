"""Derived vectors: those of a passage map, computed from the stored vectors of its trunk, without encoding.

The map always applies to vectors of the trunk, never to mapped vectors, so errors do not add up over nights.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tasks.core.base.checksums import digest_once
from tasks.core.base.errors import Mismatch
from tasks.core.base.receipts import Embeddings, Encoder, Snapshot
from tasks.core.embedding.stored_shards import first_row_of, read_vectors, shard_files
from tasks.core.encoder.dual_encoder import load_encoder, places, read_spec
from tasks.core.encoder.passage_map import PassageMap, read_map
from tasks.core.snapshot.passage_ranges import passages_between
from tasks.core.text.normalization import full_text

SAMPLE = 16  # passages to encode, to check derived vectors
MIN_COSINE = 0.999  # to encoded vectors; as for stored vectors when a release is verified


def trunk_of(encoder: Encoder) -> Encoder | None:
    """Return the encoder as the receipt of its trunk, whose passage vectors the map is applied to; None without a map.

    The files are those of the encoder: `Tower.encode_trunk` does not apply the map.
    """
    if not encoder.trunk:
        return None
    return encoder.model_copy(update={"passage_fingerprint": encoder.trunk, "trunk": ""})


class Deriver:
    """Computes the vectors of a shard from the trunk's shard of the same rows."""

    def __init__(self, encoder: Encoder, trunk: Embeddings, rank: int) -> None:
        """Open the shard `rank` of `trunk`, and read the map.

        Raises Damaged when the shard's checksum does not match the receipt, and Mismatch when a file is missing.
        """
        self._file, self._dimension = shard_files(trunk)[rank], encoder.dimension
        self._first = first_row_of(trunk.rows, rank, trunk.shards)
        self._map = _read_map(encoder)
        self.parent = {"parent": f"{trunk.digest}/{self._file.name}", "parent_digest": digest_once(self._file)}

    def derive(self, rows: np.ndarray) -> np.ndarray:
        """Return the vectors float32 (n, dimension) of these rows of the snapshot, int64 (n,)."""
        vectors = np.empty((len(rows), self._dimension), np.float32)
        for positions, stored in read_vectors([self._file], rows - self._first, self._dimension):
            vectors[positions] = stored
        return self._map.map_vectors(vectors)


def measure_fidelity(encoder: Encoder, snapshot: Snapshot, files: Sequence[Path]) -> float:
    """Encode a sample of the passages with trunk and map, and compare with the derived vectors.

    files: the shards of the derived vectors, in snapshot order.

    Returns the lowest cosine. It differs from 1 by the rounding of stored vectors and of the numeric path, which
    computes a text differently in its last bits in another batch.

    Raises Mismatch when it is below 0.999.
    """
    rows = np.unique(np.linspace(0, snapshot.rows - 1, SAMPLE).astype(np.int64))
    encoded = load_encoder(encoder.path).encode_passages(list(_texts(snapshot, rows)))
    derived = np.empty_like(encoded)
    for positions, vectors in read_vectors(files, rows, encoder.dimension):
        derived[positions] = vectors
    lengths = np.linalg.norm(encoded, axis=1) * np.linalg.norm(derived, axis=1)
    cosine = float(((encoded * derived).sum(axis=1) / np.maximum(lengths, 1e-12)).min())
    if not cosine >= MIN_COSINE:
        raise Mismatch(
            f"encoder {encoder.fingerprint}: a derived vector has a cosine of {cosine:.5f} to the vector that its "
            f"trunk and map encode, less than {MIN_COSINE}: the stored vectors of the trunk are not of these passages, "
            "or the map magnifies their rounding. Remove the embeddings of the trunk to encode them again, or set "
            '[embedding] vectors = "float32" and precision = "fp32".'
        )
    return cosine


def _read_map(encoder: Encoder) -> PassageMap:
    passage_map = read_map(encoder.path / places(read_spec(encoder.path)).get("passage", ""))
    if passage_map is None:
        raise Mismatch(f"encoder {encoder.path}: its receipt lists a passage map, but the files do not contain it")
    return passage_map


def _texts(snapshot: Snapshot, rows: np.ndarray) -> Iterator[str]:
    for row in rows.tolist():
        for batch in passages_between(snapshot, row, row + 1, ["title", "text"]):
            passage = batch.to_pylist()[0]
            yield full_text(passage["title"], passage["text"])
