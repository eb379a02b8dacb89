"""Find vectors of earlier nights to reuse: the same passage encoder and text give the same vector."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tasks.core.base.files import read_verified, receipts_newest_first
from tasks.core.base.receipts import Embeddings, TextIndex
from tasks.core.embedding.text_index import index_of


@dataclass(frozen=True)
class Source:
    """Finished embeddings, with files not verified yet, and the index of their texts, in the same row order."""

    embeddings: Embeddings
    index: TextIndex


def find_sources(home: Path, fingerprint: str, vectors: str) -> list[Source]:
    """Return the finished embeddings with this passage fingerprint, newest first.

    vectors: required number format; float32 embeddings also serve as float16.
    """
    receipts = receipts_newest_first(home, Embeddings)
    usable = [receipt for receipt in receipts if receipt.fingerprint == fingerprint]
    usable = [receipt for receipt in usable if receipt.vectors in ("float32", vectors)]
    indexed = ((receipt, index_of(home, receipt.snapshot)) for receipt in usable)
    return [Source(receipt, index) for receipt, index in indexed if index is not None]


def load_source(home: Path, digest: str) -> Embeddings | None:
    """Return the finished embeddings with this digest; None if they were removed or are damaged."""
    return read_verified(home / Embeddings.shelf / digest, Embeddings)
