"""Combine the passages of a night with the queries and judgments of the serving release, for a suspect night."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa

from tasks.core.base.duckdb_session import database, quoted
from tasks.core.base.files import produce
from tasks.core.base.receipts import Snapshot
from tasks.core.snapshot.counts import count_rows
from tasks.core.snapshot.reader import PAIR_ORDERS, PASSAGES, QUERIES

FORM = 1  # increase when the same two snapshots would give other rows


def combine_snapshots(home: Path, passages: Snapshot, judgments: Snapshot) -> Snapshot:
    """Return a snapshot with the passages of one snapshot, and the queries and qrels of another.

    Judgments of passages that do not exist any more are left out. The digest depends on the digests of both snapshots.
    """
    key = {"form": FORM, "passages": passages.digest, "judgments": judgments.digest}

    def build(folder: Path) -> Mapping[str, Any]:
        shutil.copyfile(passages.path / PASSAGES, folder / PASSAGES)
        shutil.copyfile(judgments.path / QUERIES, folder / QUERIES)
        with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
            for name, order in PAIR_ORDERS.items():
                if not (judgments.path / name).exists():  # no given negatives
                    continue
                connection.execute(f"""
                    COPY (SELECT judged.* FROM read_parquet({quoted(judgments.path / name)}) AS judged
                          SEMI JOIN read_parquet({quoted(folder / PASSAGES)}) AS passages USING (passage_id)
                          ORDER BY {order})
                    TO {quoted(folder / name)} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 32768)""")
        return count_rows(folder) | {"parents": (passages.digest, judgments.digest)}

    return produce(home, Snapshot, key, build)


def sample_changed_texts(old: Snapshot, new: Snapshot, size: int) -> pa.Table:
    """Return title and text of at most `size` passages of `new` that are new or changed since `old`.

    The sample depends only on the passages: those with the smallest text hashes.
    """
    with TemporaryDirectory() as scratch, database(Path(scratch)) as connection:
        return connection.execute(f"""
            SELECT title, text FROM read_parquet({quoted(new.path / PASSAGES)}) AS new
            ANTI JOIN read_parquet({quoted(old.path / PASSAGES)}) AS old USING (passage_id, text_hash)
            ORDER BY text_hash LIMIT {int(size)}""").to_arrow_table()
