"""Vectors that an earlier night already made: the same passage encoder and the same text give the same vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.files import read_verified, receipts_newest_first
from tasks.core.base.receipts import Embeddings, TextIndex
from tasks.core.embedding.text_index import index_of


@dataclass(frozen=True)
class Source:
    """Finished embeddings, whose files are not verified yet, and the index of their texts: row for row the same."""

    embeddings: Embeddings
    index: TextIndex


def sources(home: Path, fingerprint: str, vectors: str) -> list[Source]:
    """Finished embeddings under this passage fingerprint, newest first, in numbers no coarser than `vectors`."""
    every = receipts_newest_first(home, Embeddings)
    found = [one for one in every if one.fingerprint == fingerprint and one.vectors in ("float32", vectors)]
    indexed = ((one, index_of(home, one.snapshot)) for one in found)
    return [Source(one, index) for one, index in indexed if index is not None]


def source_named(home: Path, digest: str) -> Embeddings | None:
    """The finished embeddings of this digest; None when they were removed or are damaged."""
    return read_verified(home / Embeddings.shelf / digest, Embeddings)
