"""Literals in filter expressions of a vector store."""

from __future__ import annotations

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r"})


def quote(value: str) -> str:
    """Return a string literal, with the few escapes that milvus-lite and the Milvus server both read."""
    return f'"{value.translate(_ESCAPES)}"'
