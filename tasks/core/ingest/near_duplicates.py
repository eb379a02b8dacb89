"""Finds near duplicates among a million passages in seconds.

Rows that begin or end with the same 64 characters (without case) are candidates; each is compared with the first of
its group and with the one before it, by the exact Jaccard similarity of five-word shingles. So what is reported is
true, and a copy with edits near both its beginning and its end is missed: the price for reading each text once
instead of hashing all its words, as MinHash would have to.
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
from tasks.core.ingest.long_texts import LONG, LongTextReader, LongTextWriter, long_texts, split_by_size
from tasks.core.text.shingles import shingle

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")
_LIMIT = 50_000  # pairs compared at most: some three seconds
_AT_ONCE = 500  # pairs that one thread compares at once
_AT_ONCE_BYTES = 4 * 2**20  # of their texts
_READ = 20_000  # characters of a text that are compared
_LOWEST = 0.5  # similarity that is worth a line
_PAIRS = pa.schema([("row", pa.int64()), ("value", pa.float64())])


def find_near(connection: duckdb.DuckDBPyConnection, table: str, of: str, scratch: Path) -> None:
    """Create the table `<table>_near` (row, value): rows like an earlier one, with their highest similarity.

    Equal texts are left out: they are copies. At most 50,000 pairs are compared, spread evenly; the log says so.
    """
    connection.execute(f"CREATE TABLE {table}_near (row BIGINT, value DOUBLE)")
    groups = " UNION ".join(_candidates(table, of, end) for end in ("head", "tail"))
    connection.execute(f"CREATE TEMP TABLE every_candidate AS {groups}")
    pairs_found = one_number(connection, "SELECT count(*) FROM every_candidate")
    if pairs_found > _LIMIT:
        _log.warning("near duplicates: %d of %d candidate pairs compared", _LIMIT, pairs_found)
    connection.execute(
        f"CREATE TEMP TABLE candidates AS SELECT * FROM every_candidate ORDER BY hash(row), row, other LIMIT {_LIMIT}"
    )
    file = _at_hand(connection, table, of, scratch)
    pairs = connection.sql("""
        SELECT c.row AS row, a.at AS at, a.size AS size, b.at AS other_at, b.size AS other_size,
               a.size + b.size AS together
        FROM candidates c JOIN candidate_texts a ON a.row = c.row JOIN candidate_texts b ON b.row = c.other""")
    batches = pairs.to_arrow_table().combine_chunks().to_batches(_AT_ONCE)
    parts = [part for batch in batches for part in split_by_size(batch, "together", _AT_ONCE_BYTES)]
    with LongTextReader(file) as texts, ThreadPoolExecutor(cores()) as several:
        found = list(several.map(partial(_similar, texts), parts))
    connection.register("near_rows", pa.concat_tables([_PAIRS.empty_table(), *found]))
    connection.execute(f"INSERT INTO {table}_near SELECT row, max(value) FROM near_rows GROUP BY row")
    connection.unregister("near_rows")
    pa.default_memory_pool().release_unused()
    for name in ("every_candidate", "candidates", "candidate_texts"):
        connection.execute(f"DROP TABLE {name}")


def jaccard(left: pa.Array, right: pa.Array) -> np.ndarray:
    """Similarity of texts, pair by pair: float64 (n,). Sets of five words in a row; 0 where one has no word."""
    (one, sizes), (two, others) = shingle(left), shingle(right)
    pair = np.arange(len(left), dtype=np.uint64) << np.uint64(32)
    both = np.sort(np.concatenate([np.repeat(pair, sizes) | one, np.repeat(pair, others) | two]))
    shared = both[1:][both[1:] == both[:-1]] >> np.uint64(32)
    common = np.bincount(shared.astype(np.int64), minlength=len(left))
    share: np.ndarray = common / np.maximum(1, sizes + others - common)
    return share


def _candidates(table: str, of: str, end: str) -> str:
    """Rows that share an `end`, each beside the first of them and the one before it, unless those are equal to it."""
    return f"""
        SELECT row, pair.row AS other FROM (
            SELECT row, {of}_hash AS own, lag(row) OVER same AS before,
                   unnest([{{'row': first_value(row) OVER same, 'hash': first_value({of}_hash) OVER same}},
                           {{'row': lag(row) OVER same, 'hash': lag({of}_hash) OVER same}}]) AS pair
            FROM {table}_measured JOIN (SELECT {of}_{end} FROM {table}_measured GROUP BY {of}_{end}
                                        HAVING count(*) > 1) USING ({of}_{end})
            WHERE row IN (SELECT row FROM {table}_passed)
            WINDOW same AS (PARTITION BY {of}_{end} ORDER BY row))
        WHERE before IS NOT NULL AND own <> pair.hash"""


def _at_hand(connection: duckdb.DuckDBPyConnection, table: str, of: str, scratch: Path) -> Path:
    """Create the table `candidate_texts` (row, at, size): where the beginning of each candidate's text lies.

    The file with the texts is returned.
    """
    wanted = f"FROM {table}_passed JOIN (SELECT row FROM candidates UNION SELECT other FROM candidates) USING (row)"
    if of in LONG[table]:
        connection.execute(
            "CREATE TEMP TABLE candidate_texts AS "
            f"SELECT row, {of}_at AS at, least({of}_size, {4 * _READ}) AS size {wanted}"
        )
        return long_texts(scratch, table, of)
    file = scratch / f"{table}_{of}_candidates.txt"
    connection.execute("CREATE TEMP TABLE candidate_texts (row BIGINT, at BIGINT, size BIGINT)")
    texts = connection.sql(f"SELECT row, left({of}, {_READ}) AS text {wanted}").to_arrow_table()
    with LongTextWriter(file) as writer:
        for batch in texts.to_batches():
            at, size = writer.add(batch["text"])
            connection.register("laid", pa.table({"row": batch["row"], "at": at, "size": size}))
            connection.execute("INSERT INTO candidate_texts SELECT * FROM laid")
            connection.unregister("laid")
    return file


def _similar(texts: LongTextReader, pairs: pa.RecordBatch) -> pa.Table:
    value = jaccard(_read(texts, pairs["at"], pairs["size"]), _read(texts, pairs["other_at"], pairs["other_size"]))
    near = pa.array(value >= _LOWEST)
    return pa.table([pairs["row"], pa.array(value)], schema=_PAIRS).filter(near)


def _read(texts: LongTextReader, starts: pa.Array, sizes: pa.Array) -> pa.Array:
    beginnings = [(one or b"").decode("utf-8", "ignore")[:_READ] for one in texts.read(starts, sizes).to_pylist()]
    return pa.array(beginnings, pa.string())
