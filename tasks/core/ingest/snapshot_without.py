"""Finds forgotten rows in snapshots, and writes a snapshot without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.snapshot_writer import seal_snapshot, write_passage_rows
from tasks.core.snapshot.counts import count_rows
from tasks.core.snapshot.reader import GIVEN_NEGATIVES, PAIR_ORDERS, PASSAGES, QUERIES
from tasks.core.text.content_digest import ContentDigest
from tasks.core.text.normalization import full_text
from tasks.core.text.tombstones import Tombstones

_ROWS = 2048  # in a batch


@dataclass
class Rows:
    """The forgotten rows of a snapshot: texts by id. Those of a passage are title and text joined, and both alone."""

    passages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    queries: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.passages or self.queries)


def find_forgotten(folder: Path, tombstones: Tombstones) -> Rows:
    """Return the rows of the snapshot in `folder` whose id or text is forgotten. Streams the texts."""
    return Rows(
        *(
            {
                row_id: texts
                for row_id, texts in _texts(folder / name, column)
                if tombstones.match_id(kind, row_id) or tombstones.match_text(texts[0])
            }
            for name, column, kind in ((PASSAGES, "passage_id", "passages"), (QUERIES, "query_id", "queries"))
        )
    )


def other_texts(folder: Path, rows: Rows) -> Iterator[str]:
    """Stream the texts of the passages, with titles, and queries of the snapshot in `folder` that are not in `rows`."""
    for name, column, left_out in ((PASSAGES, "passage_id", rows.passages), (QUERIES, "query_id", rows.queries)):
        yield from (texts[0] for row_id, texts in _texts(folder / name, column) if row_id not in left_out)


def without_rows(home: Path, old: Snapshot, rows: Rows) -> Snapshot:
    """Return the snapshot of the other rows of `old`: that which ingesting these rows gives, with the same digest.

    Judgments of removed rows are removed too.

    Raises:
        NightshiftError: no passage or no query would be left.
    """
    shelf = home / Snapshot.shelf
    scratch = Path(mkdtemp(dir=shelf, prefix=".forget.", suffix=".partial"))
    try:
        digest = ContentDigest()
        write_passage_rows(_other_passages(old, rows), scratch / PASSAGES, digest)
        with database(scratch) as connection:
            for kind, ids in (("passages", rows.passages), ("queries", rows.queries)):
                connection.register(kind, pa.table({"id": pa.array(list(ids), pa.string())}))
            for name, order in ({QUERIES: "query_id"} | PAIR_ORDERS).items():
                if not (old.path / name).exists():  # the snapshot has no given negatives
                    continue
                paired = "" if name == QUERIES else "AND passage_id NOT IN (SELECT id FROM passages)"
                connection.execute(
                    f"COPY (SELECT * FROM read_parquet({quoted(old.path / name)}) "
                    f"WHERE query_id NOT IN (SELECT id FROM queries) {paired} ORDER BY {order}) "
                    f"TO {quoted(scratch / name)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 32768)"
                )
        counts = count_rows(scratch)
        if not counts["rows"] or not counts["queries"]:
            raise NightshiftError(f"snapshot {old.digest}: without the forgotten rows, no passage or no query is left")
        if not counts.get("given_negatives", 1):
            (scratch / GIVEN_NEGATIVES).unlink()
        return seal_snapshot(home, scratch, digest)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _texts(file: Path, column: str) -> Iterator[tuple[str, tuple[str, ...]]]:
    with pq.ParquetFile(file) as parquet:
        titled = "title" in parquet.schema_arrow.names
        for batch in parquet.iter_batches(_ROWS, columns=[column, "text", *(["title"] if titled else [])]):
            titles = batch["title"].to_pylist() if titled else [None] * batch.num_rows
            rows = zip(batch[column].to_pylist(), titles, batch["text"].to_pylist(), strict=True)
            for row_id, title, text in rows:
                yield row_id, (full_text(title, text), title, text) if title else (text,)


def _other_passages(old: Snapshot, rows: Rows) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(old.path / PASSAGES) as file:
        for batch in file.iter_batches(_ROWS):
            other = batch.filter(pa.array([row_id not in rows.passages for row_id in batch["passage_id"].to_pylist()]))
            if other.num_rows:
                yield other
