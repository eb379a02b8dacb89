"""Vectors that an earlier night already made: the same passage encoder and the same text give the same vector."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.files import MANIFEST, finished
from tasks.core.receipts import Embeddings, Encoder


def known_vectors(home: Path, encoder: Encoder, hashes: set[str]) -> dict[str, np.ndarray]:
    """Text hash → vector float32 (dimension,), for those of `hashes` that some earlier artifact holds."""
    known: dict[str, np.ndarray] = {}
    for folder in _same_space(home, encoder.passage_fingerprint):
        missing = hashes - known.keys()
        if missing:
            known |= _read(folder, missing, encoder.dimension)
    return known


def _same_space(home: Path, fingerprint: str) -> list[Path]:
    """Folders of finished embeddings under this fingerprint, newest first."""
    shelf = home / Embeddings.shelf
    folders = [path.parent for path in shelf.glob(f"*/{MANIFEST}") if not path.parent.name.startswith(".")]
    folders.sort(key=lambda folder: (folder / MANIFEST).stat().st_mtime, reverse=True)
    return [folder for folder in folders if _fingerprint(folder) == fingerprint]


@lru_cache(maxsize=1024)
def _fingerprint(folder: Path) -> str:
    receipt = finished(folder, Embeddings)
    return receipt.fingerprint if receipt else ""


def _read(folder: Path, hashes: set[str], dimension: int) -> dict[str, np.ndarray]:
    import duckdb

    with duckdb.connect() as connection:
        connection.execute("create temp table wanted as select unnest(?) as text_hash", [sorted(hashes)])
        connection.execute("set enable_progress_bar = false")
        found = connection.sql(
            "select text_hash, any_value(vector) as vector from read_parquet(?) semi join wanted using (text_hash)"
            " group by text_hash",
            params=[str(folder / "shard-*.parquet")],
        ).to_arrow_table()
    assert isinstance(found, pa.Table)
    vectors = found["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, dimension)
    return dict(zip(found["text_hash"].to_pylist(), vectors.astype(np.float32), strict=True))
