"""The one text of a passage: what BM25 indexes, what the encoder embeds, what two passages are compared by."""

from __future__ import annotations

import hashlib

import numpy as np
import pyarrow as pa


def full_text(title: str | None, text: str) -> str:
    """Title and text joined by one space; the text alone when there is no title."""
    return f"{title} {text}" if title else text


def text_hash(title: str | None, text: str) -> str:
    """Name a passage by its full text: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(full_text(title, text).encode()).hexdigest()[:32]


def hashes_of(titles: pa.Array, texts: pa.Array) -> pa.Array:
    """The `text_hash` of many passages (strings), without making a Python string of any text; null where it is."""
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, np.int32, len(texts) + 1, offset=4 * texts.offset).tolist()
    view = memoryview(content)
    places = zip(titles.to_pylist(), texts.is_valid().to_pylist(), ends, ends[1:], strict=False)
    return pa.array(
        [_hash(title, view[begin:end]) if known else None for title, known, begin, end in places], pa.string()
    )


def _hash(title: str | None, text: memoryview) -> str:
    return hashlib.sha256(f"{title} ".encode() + text if title else text).hexdigest()[:32]
