"""Builds the text of a passage that BM25 indexes, the encoder embeds, and duplicate detection compares."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa


def full_text(title: str | None, text: str) -> str:
    """Join title and text with a space; without a title, return the text."""
    return f"{title} {text}" if title else text


def text_hash(title: str | None, text: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of a passage's full text."""
    return hashlib.sha256(full_text(title, text).encode()).hexdigest()[:32]


def uniform(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text, and is uniform over texts: a draw that never changes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


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
