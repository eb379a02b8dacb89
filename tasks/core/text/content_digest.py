"""Names the content of tables: a digest of values that does not depend on how they are cut into batches."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


class ContentDigest:
    """SHA-256 over the values of named columns, given batch by batch, each in its order."""

    def __init__(self) -> None:
        self._columns: dict[str, list[hashlib._Hash]] = {}

    def add(self, name: str, values: pa.Array) -> None:
        """Go on with a column: strings, or numbers of a fixed width without nulls."""
        sizes, content = self._columns.setdefault(name, [hashlib.sha256(), hashlib.sha256()])
        if not pa.types.is_string(values.type):
            content.update(values.to_numpy().tobytes())
            return
        # Sizes and bytes apart: so no two columns of strings look alike. A null has no size.
        sizes.update(pc.fill_null(pc.binary_length(values), -1).to_numpy().tobytes())
        flat = pc.fill_null(values, "")
        _, offsets, letters = flat.buffers()
        if letters is not None:
            ends = np.frombuffer(offsets, np.int32, len(flat) + 1, offset=4 * flat.offset)
            content.update(memoryview(letters)[ends[0] : ends[-1]])

    def hexdigest(self) -> str:
        """Of all columns, by name."""
        lines = [
            f"{name} {sizes.hexdigest()} {content.hexdigest()}\n"
            for name, (sizes, content) in sorted(self._columns.items())
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
