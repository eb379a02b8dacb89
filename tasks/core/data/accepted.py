"""Writes the accepted rows as the three tables of a snapshot, and names their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.data.database import quoted
from tasks.core.data.snapshot import PASSAGES, QRELS, QUERIES
from tasks.core.data.splits import carve
from tasks.core.data.text import TEXT_HASH_SQL
from tasks.core.errors import BadInput

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Accepted:
    """The digest of the rows, and the counts that the snapshot's receipt shows."""

    digest: str
    fields: Mapping[str, Any]


def write_accepted(connection: duckdb.DuckDBPyConnection, folder: Path, dev_share: float, seed: int) -> Accepted:
    """Write passages, queries and positives, each ordered by its ids, so that equal rows give equal files.

    Judgements of 0 and below stay out. Raises BadInput when there is no passage, query or training pair.
    """
    _some(connection, "passages")
    _some(connection, "queries")
    moved = _held_back(connection, dev_share, seed)
    connection.register("moved", pa.table({"query_id": list(moved), "to_split": list(moved.values())}, _MOVED))
    _copy(
        connection,
        f"SELECT passage_id, title, text, {TEXT_HASH_SQL} AS text_hash FROM passages_accepted ORDER BY passage_id",
        folder / PASSAGES,
    )
    _copy(connection, "SELECT query_id, text FROM queries_accepted ORDER BY query_id", folder / QUERIES)
    _copy(connection, _POSITIVES, folder / QRELS)
    connection.unregister("moved")
    positives = quoted(folder / QRELS)
    splits = connection.execute(
        f"SELECT split, count(DISTINCT query_id) FROM read_parquet({positives}) GROUP BY split ORDER BY split"
    ).fetchall()
    counts = {name: pq.read_metadata(folder / name).num_rows for name in (PASSAGES, QUERIES, QRELS)}
    return Accepted(
        _content(folder),
        {"rows": counts[PASSAGES], "queries": counts[QUERIES], "qrels": counts[QRELS], "splits": dict(splits)},
    )


_MOVED = pa.schema([("query_id", pa.string()), ("to_split", pa.string())])
_POSITIVES = """
    SELECT query_id, passage_id, relevance,
           CASE WHEN split = 'train' THEN coalesce(to_split, split) ELSE split END AS split
    FROM qrels_accepted LEFT JOIN moved USING (query_id)
    WHERE relevance > 0 ORDER BY 4, query_id, passage_id"""


def _some(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    if connection.execute(f"SELECT 1 FROM {table}_accepted LIMIT 1").fetchone() is None:
        raise BadInput(f"no {table} in the source. Check [data] path: a night needs passages, queries and qrels.")


def _held_back(connection: duckdb.DuckDBPyConnection, share: float, seed: int) -> dict[str, str]:
    present = connection.execute("SELECT DISTINCT split FROM qrels_accepted WHERE relevance > 0").fetchall()
    splits = {split for (split,) in present}
    if "train" not in splits:
        found = f"positives only in {', '.join(sorted(splits))}" if splits else "no positive at all"
        raise BadInput(f"nothing to train on: {found}. qrels/train.tsv needs rows with a score above 0.")
    train = connection.execute("SELECT DISTINCT query_id FROM qrels_accepted WHERE relevance > 0 AND split = 'train'")
    return carve([query for (query,) in train.fetchall()], splits, share, seed)


def _copy(connection: duckdb.DuckDBPyConnection, select: str, file: Path) -> None:
    connection.execute(f"COPY ({select}) TO {quoted(file)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 32768)")


def _content(folder: Path) -> str:
    """SHA-256 over all values of the three tables; passages by id, title length and the hash of their full text."""
    digest = hashlib.sha256()
    for file, columns in ((PASSAGES, ["passage_id", "title", "text_hash"]), (QUERIES, None), (QRELS, None)):
        with pq.ParquetFile(folder / file) as table:
            for batch in table.iter_batches(columns=columns):
                for row in zip(*(batch.column(name).to_pylist() for name in batch.schema.names), strict=True):
                    digest.update(repr(_named(file, row)).encode())
    return digest.hexdigest()


def _named(file: str, row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (row[0], len(row[1]), row[2]) if file == PASSAGES else row
