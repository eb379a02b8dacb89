"""Writes the accepted rows as the three tables of a snapshot, and names their content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.contract import Contract
from data_contracts.measures import WORDING
from tasks.core.base.duckdb_session import keep, make_room, one_number, quoted
from tasks.core.base.errors import BadInput
from tasks.core.ingest.long_texts import LongTextReader, long_texts, split_by_size
from tasks.core.ingest.staging import stage
from tasks.core.snapshot.reader import PASSAGES, QRELS, QUERIES
from tasks.core.snapshot.splits import HELD_OUT, carve
from tasks.core.sources.rows import SCHEMAS
from tasks.core.text.content_digest import ContentDigest
from tasks.core.text.normalization import hashes_of

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class Accepted:
    """The digest of the rows, and the counts that the snapshot's receipt shows."""

    digest: str
    fields: Mapping[str, Any]


def stage_pairs(
    connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path, dev_share: float, seed: int
) -> None:
    """Stage the pairs: accepted positives with the query's text, in the split that the night uses them in.

    Where the source has no dev or test split, training queries are held back for it: all queries of one wording
    together. `row` is the row of qrels.
    """
    wording = WORDING.format(p="text")
    connection.execute(f"""
        CREATE TEMP TABLE positives AS
        SELECT row, query_id, passage_id, split, relevance, text AS query, {wording} AS wording
        FROM qrels_accepted JOIN (SELECT query_id, text FROM queries_accepted) USING (query_id) WHERE relevance > 0""")
    splits = {name for (name,) in connection.execute("SELECT DISTINCT split FROM positives").fetchall()}
    moved = {}
    if "train" in splits and not splits >= HELD_OUT:
        train = connection.execute("SELECT DISTINCT wording FROM positives WHERE split = 'train'").fetchall()
        moved = carve([one for (one,) in train], splits, dev_share, seed)
    connection.register("moved", pa.table({"wording": list(moved), "to_split": list(moved.values())}, _MOVED))
    pairs = """
        SELECT row, NULL::VARCHAR AS fault, query_id, passage_id, relevance, query,
               CASE WHEN split = 'train' THEN coalesce(to_split, split) ELSE split END AS split
        FROM positives LEFT JOIN moved USING (wording)"""
    stage(connection, contract, f"({pairs})", scratch)
    connection.unregister("moved")
    connection.execute("DROP TABLE positives")


def write_accepted(connection: duckdb.DuckDBPyConnection, folder: Path, scratch: Path) -> Accepted:
    """Write passages, queries and positives, each ordered by its ids, so that equal rows give equal files.

    Judgements of 0 and below stay out. Raises BadInput when there is no passage, query or training pair.
    """
    _some(connection, "passages")
    _some(connection, "queries")
    _training_pairs(connection)
    make_room(connection, sum(_staged(connection, table) for table in SCHEMAS), to_sort=True)
    digest = ContentDigest()
    _write_passages(connection, folder / PASSAGES, scratch, digest)
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
    for name in (QUERIES, QRELS):
        _add_file(digest, folder / name)
    return Accepted(
        digest.hexdigest(),
        {"rows": counts[PASSAGES], "queries": counts[QUERIES], "qrels": counts[QRELS], "splits": dict(splits)},
    )


_PASSAGE = pa.schema([(name, pa.string()) for name in ("passage_id", "title", "text", "text_hash")])
_AT_ONCE = 8192  # rows of a row group, at most
_AT_ONCE_BYTES = 8 * 2**20  # of their texts
_MOVED = pa.schema([("wording", pa.string()), ("to_split", pa.string())])


def _staged(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return one_number(connection, f"SELECT count(*) FROM {table}_staged")


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


def _write_passages(connection: duckdb.DuckDBPyConnection, file: Path, scratch: Path, digest: ContentDigest) -> None:
    """One row group is compressed while the texts of the next are read.

    Only ids, titles and places are put in order: sorting whole rows would write every text to disk again.
    """
    written = None
    with (
        ThreadPoolExecutor(1) as aside,
        pq.ParquetWriter(
            file,
            _PASSAGE,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=["passage_id"],
        ) as writer,
    ):
        for rows in _in_order(connection, scratch):
            for name in ("passage_id", "text_hash"):
                digest.add(name, rows[name])
            digest.add("title_size", pc.binary_length(rows["title"]))  # the hash is of title and text together
            if written is not None:
                written.result()
            written = aside.submit(writer.write_batch, rows)
        if written is not None:
            written.result()


def _in_order(connection: duckdb.DuckDBPyConnection, scratch: Path) -> Iterator[pa.RecordBatch]:
    places = "passage_id, coalesce(title, '') AS title, text_at, text_size"
    order = scratch / "passages_order.parquet"  # a file, for DuckDB would hold them all until the last one is read
    keep(connection, f"SELECT {places} FROM passages_accepted ORDER BY passage_id", order)
    with pq.ParquetFile(order) as file, LongTextReader(long_texts(scratch, "passages", "text")) as texts:
        for batch in file.iter_batches(_AT_ONCE):
            for rows in split_by_size(batch, "text_size", _AT_ONCE_BYTES):
                text = texts.read(rows["text_at"], rows["text_size"]).cast(pa.string())
                columns = [rows["passage_id"], rows["title"], text, hashes_of(rows["title"], text)]
                yield pa.RecordBatch.from_arrays(columns, schema=_PASSAGE)


def _add_file(digest: ContentDigest, file: Path) -> None:
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for name in batch.schema.names:
                digest.add(f"{file.stem} {name}", batch[name])
