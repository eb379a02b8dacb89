"""The one text of a passage: what BM25 indexes, what the encoder embeds, what two passages are compared by."""

from __future__ import annotations

import hashlib

# The same two rules for DuckDB; a test holds them equal to the functions below.
FULL_TEXT_SQL = "CASE WHEN coalesce(title, '') = '' THEN text ELSE title || ' ' || text END"
TEXT_HASH_SQL = f"left(sha256({FULL_TEXT_SQL}), 32)"


def full_text(title: str | None, text: str) -> str:
    """Title and text joined by one space; the text alone when there is no title."""
    return f"{title} {text}" if title else text


def text_hash(title: str | None, text: str) -> str:
    """Name a passage by its full text: the first 32 hex digits of its SHA-256."""
    return hashlib.sha256(full_text(title, text).encode()).hexdigest()[:32]
