"""Finds near duplicates among a million passages in seconds.

Rows that begin or end with the same 64 characters (ignoring case) are candidates. Each is compared with the first row
and with the preceding row of its group, by the exact Jaccard similarity of five-word shingles. There are no false
positives, but a copy with edits near both its beginning and its end is missed. In return, each text is read once;
MinHash would hash all of its words.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from tasks.core.base.duckdb_session import one_number
from tasks.core.base.settings import cores
from tasks.core.ingest.long_texts import LONG_COLUMNS, LongTextReader, LongTextWriter, long_texts, split_by_size
from tasks.core.text.duplicate_clusters import ShingleCollector
from tasks.core.text.shingles import jaccard

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")
_MOST_PAIRS = 50_000  # compared pairs; takes about three seconds
_BATCH_PAIRS = 500  # pairs per thread and batch
_BATCH_BYTES = 4 * 2**20  # of their texts
_MOST_CHARACTERS = 20_000  # compared characters of a text
_LEAST_SIMILARITY = 0.5  # reported similarity
_PAIRS = pa.schema([("row", pa.int64()), ("value", pa.float64())])


def find_near(connection: duckdb.DuckDBPyConnection, table: str, column: str, scratch: Path) -> None:
    """Create the table `<table>_near` (row, value): rows similar to an earlier row, with their highest similarity.

    Equal texts are excluded, because another rule counts copies. At most 50,000 pairs are compared: a larger number is
    sampled evenly, and logged.
    """
    connection.execute(f"CREATE TABLE {table}_near (row BIGINT, value DOUBLE)")
    groups = " UNION ".join(_candidates(table, column, end) for end in ("head", "tail"))
    connection.execute(f"CREATE TEMP TABLE every_candidate AS {groups}")
    pair_count = one_number(connection, "SELECT count(*) FROM every_candidate")
    if pair_count > _MOST_PAIRS:
        _log.warning(
            "near duplicates: compared %d of %d candidate pairs; the counts may miss some", _MOST_PAIRS, pair_count
        )
    connection.execute(
        "CREATE TEMP TABLE candidates AS "
        f"SELECT * FROM every_candidate ORDER BY hash(row), row, other LIMIT {_MOST_PAIRS}"
    )
    file = _locate_candidate_texts(connection, table, column, scratch)
    pairs = connection.sql("""
        SELECT c.row AS row, a.at AS at, a.size AS size, b.at AS other_at, b.size AS other_size,
               a.size + b.size AS together
        FROM candidates c JOIN candidate_texts a ON a.row = c.row JOIN candidate_texts b ON b.row = c.other""")
    batches = pairs.to_arrow_table().combine_chunks().to_batches(_BATCH_PAIRS)
    parts = [part for batch in batches for part in split_by_size(batch, "together", _BATCH_BYTES)]
    with LongTextReader(file) as texts, ThreadPoolExecutor(cores()) as executor:
        similar = list(executor.map(partial(_similar_pairs, texts), parts))
    connection.register("near_rows", pa.concat_tables([_PAIRS.empty_table(), *similar]))
    connection.execute(f"INSERT INTO {table}_near SELECT row, max(value) FROM near_rows GROUP BY row")
    connection.unregister("near_rows")
    pa.default_memory_pool().release_unused()
    for name in ("every_candidate", "candidates", "candidate_texts"):
        connection.execute(f"DROP TABLE {name}")


def _candidates(table: str, column: str, end: str) -> str:
    """Return the query that pairs each row with the first and the preceding row of the same `end` and another text."""
    return f"""
        SELECT row, pair.row AS other FROM (
            SELECT row, {column}_hash AS row_hash, lag(row) OVER same AS before,
                   unnest([{{'row': first_value(row) OVER same, 'hash': first_value({column}_hash) OVER same}},
                           {{'row': lag(row) OVER same, 'hash': lag({column}_hash) OVER same}}]) AS pair
            FROM {table}_measured JOIN (SELECT {column}_{end} FROM {table}_measured GROUP BY {column}_{end}
                                        HAVING count(*) > 1) USING ({column}_{end})
            WHERE row IN (SELECT row FROM {table}_passed)
            WINDOW same AS (PARTITION BY {column}_{end} ORDER BY row))
        WHERE before IS NOT NULL AND row_hash <> pair.hash"""


def _locate_candidate_texts(connection: duckdb.DuckDBPyConnection, table: str, column: str, scratch: Path) -> Path:
    """Create the table `candidate_texts` (row, at, size): offset and size of the beginning of each candidate's text.

    Returns the file with the texts.
    """
    wanted = f"FROM {table}_passed JOIN (SELECT row FROM candidates UNION SELECT other FROM candidates) USING (row)"
    if column in LONG_COLUMNS[table]:
        connection.execute(
            "CREATE TEMP TABLE candidate_texts AS "
            f"SELECT row, {column}_at AS at, least({column}_size, {4 * _MOST_CHARACTERS}) AS size {wanted}"
        )
        return long_texts(scratch, table, column)
    file = scratch / f"{table}_{column}_candidates.txt"
    connection.execute("CREATE TEMP TABLE candidate_texts (row BIGINT, at BIGINT, size BIGINT)")
    texts = connection.sql(f"SELECT row, left({column}, {_MOST_CHARACTERS}) AS text {wanted}").to_arrow_table()
    with LongTextWriter(file) as writer:
        for batch in texts.to_batches():
            at, size = writer.add(batch["text"])
            connection.register("located", pa.table({"row": batch["row"], "at": at, "size": size}))
            connection.execute("INSERT INTO candidate_texts SELECT * FROM located")
            connection.unregister("located")
    return file


def _similar_pairs(texts: LongTextReader, pairs: pa.RecordBatch) -> pa.Table:
    collector, numbers = ShingleCollector(), np.arange(len(pairs))
    for at, size in (("at", "size"), ("other_at", "other_size")):
        collector.add(_read_beginnings(texts, pairs[at], pairs[size]))
    value = jaccard(collector.sets(), numbers, numbers + len(pairs))
    near = pa.array(value >= _LEAST_SIMILARITY)
    return pa.table([pairs["row"], pa.array(value)], schema=_PAIRS).filter(near)


def _read_beginnings(texts: LongTextReader, starts: pa.Array, sizes: pa.Array) -> pa.Array:
    contents = texts.read(starts, sizes).to_pylist()
    beginnings = [(content or b"").decode("utf-8", "ignore")[:_MOST_CHARACTERS] for content in contents]
    return pa.array(beginnings, pa.string())
