"""Writes the accepted rows as the three tables of a snapshot, and names their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_contracts.measures import WORDING
from tasks.core.data.database import one_number, quoted
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


def stage_pairs(connection: duckdb.DuckDBPyConnection, scratch: Path, dev_share: float, seed: int) -> None:
    """Create the view `pairs_staged`: accepted positives with the query's text, in the split the night uses them in.

    Where the source has no dev or test split, training queries are held back for it: all queries of one wording
    together. `row` is the row of qrels.
    """
    wording = WORDING.format(p="text")
    connection.execute(f"""
        CREATE TEMP TABLE positives AS
        SELECT row, query_id, passage_id, split, relevance, text AS query, {wording} AS wording
        FROM qrels_accepted JOIN (SELECT query_id, text FROM queries_accepted) USING (query_id) WHERE relevance > 0""")
    splits = {name for (name,) in connection.execute("SELECT DISTINCT split FROM positives").fetchall()}
    train = connection.execute("SELECT DISTINCT wording FROM positives WHERE split = 'train'").fetchall()
    moved = carve([one for (one,) in train], splits, dev_share, seed) if train else {}
    connection.register("moved", pa.table({"wording": list(moved), "to_split": list(moved.values())}, _MOVED))
    file = quoted(scratch / "pairs_staged.parquet")
    connection.execute(
        "COPY (SELECT row, NULL::VARCHAR AS fault, query_id, passage_id, relevance, query, "
        "CASE WHEN split = 'train' THEN coalesce(to_split, split) ELSE split END AS split "
        f"FROM positives LEFT JOIN moved USING (wording)) TO {file} (FORMAT parquet, COMPRESSION lz4)"
    )
    connection.unregister("moved")
    connection.execute("DROP TABLE positives")
    connection.execute(f"CREATE VIEW pairs_staged AS SELECT * FROM read_parquet({file})")


def write_accepted(connection: duckdb.DuckDBPyConnection, folder: Path) -> Accepted:
    """Write passages, queries and positives, each ordered by its ids, so that equal rows give equal files.

    Judgements of 0 and below stay out. Raises BadInput when there is no passage, query or training pair.
    """
    _some(connection, "passages")
    _some(connection, "queries")
    _training_pairs(connection)
    _copy(
        connection,
        f"SELECT passage_id, title, text, {TEXT_HASH_SQL} AS text_hash FROM passages_accepted ORDER BY passage_id",
        folder / PASSAGES,
    )
    _copy(connection, "SELECT query_id, text FROM queries_accepted ORDER BY query_id", folder / QUERIES)
    _copy(
        connection,
        "SELECT query_id, passage_id, relevance, split FROM pairs_accepted ORDER BY split, query_id, passage_id",
        folder / QRELS,
    )
    splits = connection.execute(
        "SELECT split, count(DISTINCT query_id) FROM pairs_accepted GROUP BY split ORDER BY split"
    ).fetchall()
    counts = {name: pq.read_metadata(folder / name).num_rows for name in (PASSAGES, QUERIES, QRELS)}
    return Accepted(
        _content(folder),
        {"rows": counts[PASSAGES], "queries": counts[QUERIES], "qrels": counts[QRELS], "splits": dict(splits)},
    )


_MOVED = pa.schema([("wording", pa.string()), ("to_split", pa.string())])


def _some(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    if not one_number(connection, f"SELECT count(*) FROM {table}_accepted"):
        raise BadInput(f"no {table} in the source. Check [data] path: a night needs passages, queries and qrels.")


def _training_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    splits = [name for (name,) in connection.execute("SELECT DISTINCT split FROM pairs_accepted ORDER BY 1").fetchall()]
    if "train" not in splits:
        found = f"positives only in {', '.join(splits)}" if splits else "no positive at all"
        raise BadInput(f"nothing to train on: {found}. The qrels of train need rows with a score above 0.")


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
