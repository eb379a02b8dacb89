"""Computes digests of tables that do not depend on the division into batches."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ContentDigest:
    """SHA-256 of the values of named columns, added in batches in row order."""

    def __init__(self) -> None:
        self._columns: dict[str, list[hashlib._Hash]] = {}

    def add(self, name: str, values: pa.Array) -> None:
        """Add the next values of a column: strings, or numbers of fixed width without nulls."""
        sizes, content = self._columns.setdefault(name, [hashlib.sha256(), hashlib.sha256()])
        if not pa.types.is_string(values.type):
            content.update(values.to_numpy().tobytes())
            return
        # Sizes are hashed separately, so different columns never concatenate to the same bytes. A null has size -1.
        sizes.update(pc.fill_null(pc.binary_length(values), -1).to_numpy().tobytes())
        flat = pc.fill_null(values, "")
        _, offsets, letters = flat.buffers()
        if letters is not None:
            ends = np.frombuffer(offsets, np.int32, len(flat) + 1, offset=4 * flat.offset)
            content.update(memoryview(letters)[ends[0] : ends[-1]])

    def hexdigest(self) -> str:
        """Return the digest of all columns, sorted by name."""
        lines = [
            f"{name} {sizes.hexdigest()} {content.hexdigest()}\n"
            for name, (sizes, content) in sorted(self._columns.items())
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
