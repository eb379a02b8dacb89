"""Reads passages, queries, and qrels of snapshots, and compares the passages of two snapshots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Snapshot
from tasks.core.text.normalization import full_text

PASSAGES, QUERIES, QRELS = "passages.parquet", "queries.parquet", "qrels.parquet"
GIVEN_NEGATIVES = "given_negatives.parquet"  # only if there are any
CANDIDATES = "candidates.parquet"  # in the snapshot of candidates for synthetic pairs: query_id, passage_id, query, …
PAIR_ORDERS = {QRELS: "split, query_id, passage_id", GIVEN_NEGATIVES: "query_id, passage_id"}  # file -> order of rows


@dataclass(frozen=True)
class Changes:
    """Number of changed passages between an old and a new snapshot, by id and text hash."""

    new: int  # ids only in the new snapshot
    changed: int  # ids in both, with a different title or text
    gone: int  # ids only in the old snapshot
    same: int  # ids in both, with the same title and text


def load_snapshot(home: Path, digest: str) -> Snapshot:
    """Return the receipt of a finished snapshot.

    Raises:
        NightshiftError: the snapshot is missing.
    """
    snapshot = find_artifact(home, Snapshot, digest)
    if snapshot is None:
        raise NightshiftError(f"snapshot {digest}: not found in {home / Snapshot.shelf}. Ingest its source again.")
    return snapshot


def passages(
    snapshot: Snapshot, columns: Sequence[str] | None = None, batch_rows: int = 8192
) -> Iterator[pa.RecordBatch]:
    """Stream the passages in order of id.

    Args:
        snapshot: The snapshot.
        columns: Columns to read, of passage_id, title, text, and text_hash (all strings); None: all.
        batch_rows: Maximum rows per batch.
    """
    with pq.ParquetFile(snapshot.path / PASSAGES) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=None if columns is None else list(columns))


def passages_by_id(snapshot: Snapshot, ids: pa.Array) -> dict[str, tuple[str, str]]:
    """Map each of these passage ids (string) that the snapshot has to its title and text, in one pass over the file."""
    by_id: dict[str, tuple[str, str]] = {}
    for batch in passages(snapshot, ["passage_id", "title", "text"]):
        selected = batch.filter(pc.is_in(batch["passage_id"], value_set=ids))
        by_id.update((row["passage_id"], (row["title"], row["text"])) for row in selected.to_pylist())
    return by_id


def passage_texts(snapshot: Snapshot) -> Iterator[str]:
    """Stream the full text of each passage: title and text joined."""
    for batch in passages(snapshot, columns=["title", "text"]):
        for row in batch.to_pylist():
            yield full_text(row["title"], row["text"])


def texts_of(snapshot: Snapshot, chosen: np.ndarray, batch_rows: int = 8192) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Yield the rows and the full texts of chosen passages, for each batch of rows that has any.

    Args:
        snapshot: The snapshot.
        chosen: bool (passages,).
        batch_rows: Maximum rows per batch.
    """
    first = 0
    for batch in passages(snapshot, columns=["title", "text"], batch_rows=batch_rows):
        rows = np.flatnonzero(chosen[first : first + batch.num_rows])
        if len(rows):
            rows_of_batch = batch if len(rows) == batch.num_rows else batch.take(pa.array(rows))
            pairs = zip(rows_of_batch["title"].to_pylist(), rows_of_batch["text"].to_pylist(), strict=True)
            yield rows + first, [full_text(title, text) for title, text in pairs]
        first += batch.num_rows


def queries(snapshot: Snapshot, split: str | None = None) -> pa.Table:
    """Return queries (query_id, text) in order of id: all, or those with a positive in `split`."""
    table = pq.read_table(snapshot.path / QUERIES)
    if split is not None:
        judged_ids = pc.unique(qrels(snapshot, split)["query_id"])
        table = table.filter(pc.is_in(table["query_id"], value_set=judged_ids))
    return table


def judged(snapshot: Snapshot, split: str) -> pa.Table:
    """Return the judged queries (query_id, text) of a split, in order of id.

    Raises:
        BadInput: the split has no judged query; the message lists the available splits.
    """
    table = queries(snapshot, split)
    if table.num_rows == 0:
        available = ", ".join(sorted(snapshot.splits))
        raise BadInput(
            f"split {str(split)!r} has no judged query; available splits: {available}. "
            "Set [evaluation] split to one of them."
        )
    return table


def qrels(snapshot: Snapshot, split: str | None = None) -> pa.Table:
    """Return positives (query_id, passage_id, relevance int32 > 0, split), sorted by split, query, and passage.

    There is a column `weight` (float32) if a weight differs from 1; see `pair_weights`. If the collection has several
    sources, the column `source` names that of each row.

    Args:
        snapshot: The snapshot.
        split: Name of a split; None: all splits.
    """
    filters = None if split is None else [("split", "=", split)]
    return pq.read_table(snapshot.path / QRELS, filters=filters)


def pair_weights(positives: pa.Table) -> np.ndarray:
    """Return the weight of each row of `qrels`, how sure it is: float32 (rows,) in (0, 1]; 1 without weights."""
    if "weight" not in positives.column_names:
        return np.ones(positives.num_rows, np.float32)
    return np.asarray(positives["weight"].to_numpy(), np.float32)


def given_negatives(snapshot: Snapshot) -> pa.Table:
    """Return the pairs (query_id, passage_id) of training queries that people judged as not relevant, sorted."""
    if not snapshot.given_negatives:
        return pa.table({"query_id": pa.array([], pa.string()), "passage_id": pa.array([], pa.string())})
    return pq.read_table(snapshot.path / GIVEN_NEGATIVES)


def compare(old: Snapshot, new: Snapshot) -> Changes:
    """Count new, changed, removed, and unchanged passages. The join may spill to disk, so memory is bounded."""
    with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
        counts = connection.execute(
            f"""
            SELECT count(*) FILTER (o.passage_id IS NULL),
                   count(*) FILTER (o.text_hash <> n.text_hash),
                   count(*) FILTER (n.passage_id IS NULL),
                   count(*) FILTER (o.text_hash = n.text_hash)
            FROM read_parquet({quoted(old.path / PASSAGES)}) o
            FULL JOIN read_parquet({quoted(new.path / PASSAGES)}) n ON o.passage_id = n.passage_id"""
        ).fetchone()
    assert counts is not None
    return Changes(*counts)


def match_passages(old: Snapshot, new: Snapshot, equal: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Match the passages of two snapshots by id. The join may spill to disk, so memory is bounded.

    Args:
        old: a snapshot.
        new: a later snapshot.
        equal: columns to compare; null equals an empty string.

    Returns:
        For each passage of `new`: its row in `old`, int64 (rows,), -1 for new ids; and bool (rows,), true if it is in
        `old` with the same values in `equal`.
    """
    earlier, same = np.full(new.rows, -1, np.int64), np.zeros(new.rows, bool)
    condition = " AND ".join(f"coalesce(o.{column}, '') = coalesce(n.{column}, '')" for column in equal)
    with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
        pairs = connection.execute(
            f"""
            SELECT o.file_row_number AS old_row, n.file_row_number AS new_row, {condition} AS same
            FROM read_parquet({quoted(old.path / PASSAGES)}, file_row_number = true) o
            JOIN read_parquet({quoted(new.path / PASSAGES)}, file_row_number = true) n USING (passage_id)"""
        ).fetchnumpy()
    earlier[pairs["new_row"]], same[pairs["new_row"]] = pairs["old_row"], pairs["same"]
    return earlier, same


def unchanged_rows(old: Snapshot, new: Snapshot) -> np.ndarray:
    """Match passages with the same id and the same text, title included, in two snapshots.

    Returns:
        int64 (old passages,): the row in the new snapshot, or -1 for changed and removed passages. The rows ascend.
    """
    earlier, same = match_passages(old, new, ["text_hash"])
    rows = np.full(old.rows, -1, np.int64)
    rows[earlier[same]] = np.flatnonzero(same)
    return rows
