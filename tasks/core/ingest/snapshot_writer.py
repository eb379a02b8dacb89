"""Writes the accepted rows as the three tables of a snapshot, and computes the content digest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.contract import JUDGMENTS, TABLES, Contract
from data_contracts.measures import WORDING
from tasks.core.base.duckdb_session import keep, make_room, one_number, quoted
from tasks.core.base.errors import BadInput
from tasks.core.base.files import produce
from tasks.core.base.read_ahead import BackgroundWriter
from tasks.core.base.receipts import Snapshot
from tasks.core.base.sections.data import DataSettings
from tasks.core.ingest.long_texts import LongTextReader, long_texts, split_by_size
from tasks.core.ingest.staging import SOURCE, stage
from tasks.core.snapshot.counts import count_rows
from tasks.core.snapshot.reader import GIVEN_NEGATIVES, PASSAGES, QRELS, QUERIES
from tasks.core.snapshot.splits import HELD_OUT, Split, carve
from tasks.core.text.column_hashes import hashes_of
from tasks.core.text.content_digest import ContentDigest

if TYPE_CHECKING:
    import duckdb


_FORM = 2  # increase when the same rows would give another content digest


def stage_pairs(connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path, data: DataSettings) -> None:
    """Stage the pairs: accepted positives with the query text and the split that the night uses.

    If the source has no dev or test split, a share `dev_share` of the training queries is moved to it. Queries of equal
    wording move together. `row` is the row of qrels.

    A pair whose weight is below `held_out_weight`, or whose source only trains, is never held out. If a query of its
    wording is, the pair is left out of the snapshot, because training on it would be cheating. Its row is in the table
    `unsure_pairs`.
    """
    wording = WORDING.format(p="text")
    only_train = ", ".join(quoted(part.name) for part in data.parts if part.only_trains)
    judged = f"{SOURCE} NOT IN ({only_train})" if only_train else "true"
    connection.execute(f"""
        CREATE TEMP TABLE positives AS
        SELECT row, query_id, passage_id, split, relevance, text AS query, {wording} AS wording,
               coalesce(weight, 1) >= {data.held_out_weight} AND {judged} AS sure
        FROM qrels_accepted JOIN (SELECT query_id, text FROM queries_accepted) USING (query_id) WHERE relevance > 0""")
    splits = {name for (name,) in connection.execute("SELECT DISTINCT split FROM positives WHERE sure").fetchall()}
    split_of_wording = {}
    if Split.TRAIN in splits and not splits.issuperset(HELD_OUT):
        wordings = "SELECT DISTINCT wording FROM positives WHERE sure AND split = 'train'"
        train = [text for (text,) in connection.execute(wordings).fetchall()]
        split_of_wording = carve(train, splits, data.dev_share, data.seed)
    moved = {"wording": list(split_of_wording), "to_split": list(split_of_wording.values())}
    connection.register("moved", pa.table(moved, _MOVED))
    connection.execute("""
        CREATE TEMP TABLE assigned AS
        SELECT * REPLACE (CASE WHEN split = 'train' THEN coalesce(to_split, split) ELSE split END AS split)
        FROM positives LEFT JOIN moved USING (wording)""")
    connection.execute("""
        CREATE TABLE unsure_pairs AS SELECT row FROM assigned WHERE NOT sure AND (split <> 'train'
            OR wording IN (SELECT wording FROM assigned WHERE sure AND split <> 'train'))""")
    pairs = """
        SELECT row, NULL::VARCHAR AS fault, query_id, passage_id, relevance, query, split
        FROM assigned ANTI JOIN unsure_pairs USING (row)"""
    stage(connection, contract, f"({pairs})", scratch)
    connection.unregister("moved")
    connection.execute("DROP TABLE positives; DROP TABLE assigned")


def write_snapshot(
    connection: duckdb.DuckDBPyConnection,
    scratch: Path,
    home: Path,
    *,
    judged: bool = False,
    labeled: bool = True,
    has_sources: bool = False,
) -> Snapshot:
    """Store the rows of the views `<table>_accepted` as a snapshot in `home`, named by their content digest.

    Passages, queries, and positives are ordered by their ids, so equal rows give equal files. Judgments of 0 and below
    are omitted. The qrels have a column `weight` only if a weight differs from 1, and `source` only with
    `has_sources`: the rows then come from several sources. With `judged`, the rows of the table `given_negatives` are
    stored as well. Raises BadInput when there is no passage; also when there is no query or training pair, if the
    source must be labeled.
    """
    _require_rows(connection, "passages")
    if labeled:
        _require_rows(connection, "queries")
        _require_training_pairs(connection)
    make_room(connection, sum(_count_staged(connection, table) for table in TABLES[:3]), to_sort=True)
    rows = scratch / "accepted"
    rows.mkdir()
    digest = ContentDigest()
    _write_passages(connection, rows / PASSAGES, scratch, digest)
    _copy(connection, "SELECT query_id, text FROM queries_accepted ORDER BY query_id", rows / QUERIES)
    _copy(
        connection,
        f"SELECT query_id, passage_id, relevance, split{_more_columns(connection, has_sources=has_sources)} "
        f"FROM pairs_accepted LEFT JOIN (SELECT row, weight, {SOURCE} AS source FROM qrels_staged) USING (row) "
        "ORDER BY split, query_id, passage_id",
        rows / QRELS,
    )
    if judged and one_number(connection, "SELECT count(*) FROM given_negatives"):
        select = "SELECT query_id, passage_id FROM given_negatives ORDER BY query_id, passage_id"
        _copy(connection, select, rows / GIVEN_NEGATIVES)
    return seal_snapshot(home, rows, digest)


def seal_snapshot(home: Path, rows: Path, digest: ContentDigest) -> Snapshot:
    """Move the files of a snapshot from the folder `rows` into `home`, named by their content.

    Args:
        home: folder of the artifacts.
        rows: passages, queries, and qrels; given negatives only if there are any, so that snapshots without them keep
            their digests.
        digest: of the passages so far.
    """
    names = [name for name in (PASSAGES, QUERIES, QRELS, GIVEN_NEGATIVES) if (rows / name).exists()]
    for name in names[1:]:
        _add_columns(digest, rows / name)

    def build(folder: Path) -> Mapping[str, Any]:
        for name in names:
            (rows / name).rename(folder / name)
        return count_rows(folder)

    return produce(home, Snapshot, {"version": _FORM, "content": digest.hexdigest()}, build)


_PASSAGE = pa.schema([(name, pa.string()) for name in ("passage_id", "title", "text", "text_hash")])
_BATCH_ROWS = 8192  # most rows of a row group
_BATCH_BYTES = 8 * 2**20  # of texts in a row group
_MOVED = pa.schema([("wording", pa.string()), ("to_split", pa.string())])


def _count_staged(connection: duckdb.DuckDBPyConnection, table: str) -> int:
    return one_number(connection, f"SELECT count(*) FROM {table}_staged")


def _more_columns(connection: duckdb.DuckDBPyConnection, *, has_sources: bool) -> str:
    """Return the columns of qrels that only some snapshots have: no weights if all are 1."""
    unsure = "SELECT count(*) FROM pairs_accepted JOIN (SELECT row FROM qrels_staged WHERE weight < 1) USING (row)"
    weight = ", coalesce(weight, 1)::FLOAT AS weight" if one_number(connection, unsure) else ""
    return weight + (f", coalesce(source, '{JUDGMENTS}') AS source" if has_sources else "")


def _require_rows(connection: duckdb.DuckDBPyConnection, table: str) -> None:
    if not one_number(connection, f"SELECT count(*) FROM {table}_accepted"):
        raise BadInput(f"no {table} in the source. Check [data] path: a night needs passages, queries, and qrels.")


def _require_training_pairs(connection: duckdb.DuckDBPyConnection) -> None:
    splits = [name for (name,) in connection.execute("SELECT DISTINCT split FROM pairs_accepted ORDER BY 1").fetchall()]
    if Split.TRAIN not in splits:
        reason = f"positives only in {', '.join(splits)}" if splits else "the source has no positives"
        raise BadInput(f"nothing to train on: {reason}. The qrels of train need rows with a score above 0.")


def _copy(connection: duckdb.DuckDBPyConnection, select: str, file: Path) -> None:
    connection.execute(f"COPY ({select}) TO {quoted(file)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 32768)")


def _write_passages(connection: duckdb.DuckDBPyConnection, file: Path, scratch: Path, digest: ContentDigest) -> None:
    """Write the passages: compress one row group while the texts of the next are read.

    Only ids, titles, and offsets are sorted. Sorting whole rows would write every text to disk again.
    """
    write_passage_rows(_ordered_passages(connection, scratch), file, digest)


def write_passage_rows(batches: Iterable[pa.RecordBatch], file: Path, digest: ContentDigest) -> None:
    """Write batches of passages as row groups, and add them to the digest of a snapshot."""
    with (
        pq.ParquetWriter(
            file,
            _PASSAGE,
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
            write_statistics=["passage_id"],
        ) as writer,
        BackgroundWriter() as background,
    ):
        for rows in batches:
            for name in ("passage_id", "text_hash"):
                digest.add(name, rows[name])
            digest.add("title_size", pc.binary_length(rows["title"]))  # text_hash covers title and text together
            background.do(writer.write_batch, rows)


def _ordered_passages(connection: duckdb.DuckDBPyConnection, scratch: Path) -> Iterator[pa.RecordBatch]:
    places = "passage_id, coalesce(title, '') AS title, text_at, text_size"
    order = scratch / "passages_order.parquet"  # a file: DuckDB would hold all rows in memory until the last is read
    keep(connection, f"SELECT {places} FROM passages_accepted ORDER BY passage_id", order)
    with pq.ParquetFile(order) as file, LongTextReader(long_texts(scratch, "passages", "text")) as texts:
        for batch in file.iter_batches(_BATCH_ROWS):
            for rows in split_by_size(batch, "text_size", _BATCH_BYTES):
                text = texts.read(rows["text_at"], rows["text_size"]).cast(pa.string())
                columns = [rows["passage_id"], rows["title"], text, hashes_of(rows["title"], text)]
                yield pa.RecordBatch.from_arrays(columns, schema=_PASSAGE)


def _add_columns(digest: ContentDigest, file: Path) -> None:
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches():
            for name in batch.schema.names:
                digest.add(f"{file.stem} {name}", batch[name])
