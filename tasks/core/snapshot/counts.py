"""Counts the rows of a snapshot's files, for its receipt."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.snapshot.reader import GIVEN_NEGATIVES, PASSAGES, QRELS, QUERIES

_FIELDS = {PASSAGES: "rows", QUERIES: "queries", QRELS: "qrels", GIVEN_NEGATIVES: "given_negatives"}


def count_rows(folder: Path) -> dict[str, Any]:
    """Return the fields of the receipt `Snapshot` that count the rows of the files in `folder`."""
    counts: dict[str, Any] = {
        field: pq.read_metadata(folder / name).num_rows for name, field in _FIELDS.items() if (folder / name).exists()
    }
    with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
        splits = connection.execute(
            f"SELECT split, count(DISTINCT query_id) FROM read_parquet({quoted(folder / QRELS)})"
            " GROUP BY split ORDER BY split"
        ).fetchall()
    return counts | {"splits": dict(splits)}
