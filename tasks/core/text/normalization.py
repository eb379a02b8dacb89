"""Builds the text of a passage that BM25 indexes, the encoder embeds, and duplicate detection compares."""

from __future__ import annotations

import hashlib


def full_text(title: str | None, text: str) -> str:
    """Join title and text with a space; without a title, return the text."""
    return f"{title} {text}" if title else text


def text_hash(title: str | None, text: str) -> str:
    """Return the first 32 hex digits of the SHA-256 of a passage's full text."""
    return hashlib.sha256(full_text(title, text).encode()).hexdigest()[:32]


def uniform(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text, and is uniform over texts: a draw that never changes."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48
