"""The one text of a passage: what BM25 indexes, what the encoder embeds, what two passages are compared by."""

from __future__ import annotations

import hashlib


def full_text(title: str | None, text: str) -> str:
    """Title and text joined by one space; the text alone when there is no title."""
    return f"{title} {text}" if title else text


def text_hash(title: str | None, text: str) -> str:
    """Name a passage by its full text: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(full_text(title, text).encode()).hexdigest()[:32]


def hash_of_utf8(title: str | None, text: bytes) -> str:
    """The same as `text_hash`, of a text that is UTF-8 already."""
    return hashlib.sha256(f"{title} ".encode() + text if title else text).hexdigest()[:32]
