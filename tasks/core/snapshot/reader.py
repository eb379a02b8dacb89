"""Reads snapshots: passages as a stream, queries and qrels as tables, and what changed between two of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Snapshot
from tasks.core.text.normalization import full_text

PASSAGES, QUERIES, QRELS = "passages.parquet", "queries.parquet", "qrels.parquet"


@dataclass(frozen=True)
class Changes:
    """Passages of a new snapshot against an old one, by id and text hash."""

    new: int  # ids that only the new one has
    changed: int  # ids of both whose title or text differ
    gone: int  # ids that only the old one has
    same: int


def load_snapshot(home: Path, digest: str) -> Snapshot:
    """The receipt of a finished snapshot. Raises NightshiftError when it is not there."""
    found = find_artifact(home, Snapshot, digest)
    if found is None:
        raise NightshiftError(f"snapshot {digest}: not found in {home / Snapshot.shelf}. Ingest its source again.")
    return found


def passages(
    snapshot: Snapshot, columns: Sequence[str] | None = None, batch_rows: int = 8192
) -> Iterator[pa.RecordBatch]:
    """Stream the passages, ordered by id: passage_id, title, text, text_hash (all strings), or only `columns`."""
    with pq.ParquetFile(snapshot.path / PASSAGES) as file:
        yield from file.iter_batches(batch_size=batch_rows, columns=None if columns is None else list(columns))


def passage_texts(snapshot: Snapshot) -> Iterator[str]:
    """The text of each passage, title and body joined, as a stream."""
    for batch in passages(snapshot, columns=["title", "text"]):
        for row in batch.to_pylist():
            yield full_text(row["title"], row["text"])


def queries(snapshot: Snapshot, split: str | None = None) -> pa.Table:
    """Queries (query_id, text), ordered by id: all of them, or those with a positive in `split`."""
    table = pq.read_table(snapshot.path / QUERIES)
    if split is not None:
        asked = pc.unique(qrels(snapshot, split)["query_id"])
        table = table.filter(pc.is_in(table["query_id"], value_set=asked))
    return table


def judged(snapshot: Snapshot, split: str) -> pa.Table:
    """`queries` of a split that must have some.

    Raises BadInput naming the splits that there are.
    """
    asked = queries(snapshot, split)
    if asked.num_rows == 0:
        known = ", ".join(sorted(snapshot.splits))
        raise BadInput(
            f"split {split!r} has no judged query; there are: {known}. Set [evaluation] split to one of them."
        )
    return asked


def qrels(snapshot: Snapshot, split: str | None = None) -> pa.Table:
    """Positives (query_id, passage_id, relevance int32 > 0, split), ordered by split, query and passage."""
    chosen = None if split is None else [("split", "=", split)]
    return pq.read_table(snapshot.path / QRELS, filters=chosen)


def compare(old: Snapshot, new: Snapshot) -> Changes:
    """Count new, changed, gone and same passages. Memory is bounded: the join may spill to disk."""
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
