"""Finds forgotten rows in snapshots, and writes a snapshot without them."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.core.base.duckdb_session import database, one_number, quoted
from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.snapshot_writer import seal_snapshot, write_passage_rows
from tasks.core.snapshot.counts import count_rows
from tasks.core.snapshot.reader import CANDIDATES, GIVEN_NEGATIVES, PAIR_ORDERS, PASSAGES, QRELS, QUERIES
from tasks.core.text.content_digest import ContentDigest
from tasks.core.text.normalization import full_text
from tasks.core.text.synthetic_queries import is_synthetic
from tasks.core.text.tombstones import Tombstones

if TYPE_CHECKING:
    import duckdb

_ROWS = 2048  # in a batch


@dataclass
class Rows:
    """The forgotten rows of a snapshot: texts by id. Those of a passage are title and text joined, and both alone."""

    passages: dict[str, tuple[str, ...]] = field(default_factory=dict)
    queries: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.passages or self.queries)


def find_forgotten(folder: Path, tombstones: Tombstones) -> Rows:
    """Return the rows of the snapshot in `folder` whose id or text is forgotten. Streams the texts.

    The synthetic queries that were made from a forgotten passage are among them, also those that a rule dropped, and
    the passage without each of its queries.
    """
    rows = Rows(
        *(
            {
                row_id: texts
                for row_id, texts in _texts(folder / name, column)
                if tombstones.match_id(kind, row_id) or tombstones.match_text(texts[0])
            }
            for name, column, kind in ((PASSAGES, "passage_id", "passages"), (QUERIES, "query_id", "queries"))
        )
    )
    if (folder / CANDIDATES).exists():
        _add_candidates(folder, tombstones, rows)
    elif rows.passages and (folder / QRELS).exists():
        _add_synthetic_queries(folder, rows)
    return rows


def _add_candidates(folder: Path, tombstones: Tombstones, rows: Rows) -> None:
    candidates = pq.read_table(folder / CANDIDATES, columns=["query_id", "passage_id", "query"]).to_pylist()
    rows.queries |= {
        row["query_id"]: (row["query"],)
        for row in candidates
        if tombstones.match_id("passages", row["passage_id"])
        or tombstones.match_id("queries", row["query_id"])
        or tombstones.match_text(row["query"])
    }
    rows.passages |= {name: texts for name, texts in _texts(folder / PASSAGES, "passage_id") if name in rows.queries}


def _add_synthetic_queries(folder: Path, rows: Rows) -> None:
    made: set[str] = set()
    with pq.ParquetFile(folder / QRELS) as file:
        for batch in file.iter_batches(columns=["query_id", "passage_id"]):
            pairs = zip(batch["query_id"].to_pylist(), batch["passage_id"].to_pylist(), strict=True)
            made.update(query for query, passage in pairs if passage in rows.passages and is_synthetic(query))
    if made:
        rows.queries |= {name: texts for name, texts in _texts(folder / QUERIES, "query_id") if name in made}


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
                kept = (
                    f"FROM read_parquet({quoted(old.path / name)}) "
                    f"WHERE query_id NOT IN (SELECT id FROM queries) {paired}"
                )
                columns = _columns(connection, kept, old.path / name)
                connection.execute(
                    f"COPY (SELECT {columns} {kept} ORDER BY {order}) "
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


def _columns(connection: duckdb.DuckDBPyConnection, kept: str, file: Path) -> str:
    """Return the columns of the kept rows of a file, without weights if all of them are 1."""
    weighted = "weight" in pq.read_schema(file).names
    unsure = weighted and one_number(connection, f"SELECT count(*) FILTER (weight < 1) {kept}")
    return "* EXCLUDE (weight)" if weighted and not unsure else "*"


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
