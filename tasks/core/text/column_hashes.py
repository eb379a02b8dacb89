"""Computes the hashes of whole columns of passages."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa


def hashes_of(titles: pa.Array, texts: pa.Array) -> pa.Array:
    """Compute `text_hash` of many passages without creating Python strings of the texts.

    Args:
        titles: Strings (n,); may contain nulls.
        texts: Strings (n,); may contain nulls.

    Returns:
        Hashes as strings (n,); null where the text is null.
    """
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, offset=4 * texts.offset).tolist()
    view = memoryview(content)
    rows = zip(titles.to_pylist(), texts.is_valid().to_pylist(), ends, ends[1:], strict=False)
    return pa.array(
        [_hash(title, view[begin:end]) if valid else None for title, valid, begin, end in rows], pa.string()
    )


def _hash(title: str | None, text: memoryview) -> str:
    return hashlib.sha256(f"{title} ".encode() + text if title else text).hexdigest()[:32]
