"""A collection: passages, queries and qrels, validated against the data contracts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from nightshift.settings import HOME, settings_for
from nightshift.tables import table_of
from tasks.core.base.receipts import Ingested
from tasks.core.ingest.ingest import ingest
from tasks.core.snapshot import reader
from tasks.core.sources.source import recognize

FILES = {"passages": "corpus", "queries": "queries", "qrels": "qrels"}


class Collection:
    """Passages, queries and qrels, as an immutable validated snapshot in `home`.

    Rows that break a data contract go to quarantine; `refused` counts them. Without a dev or test split, a tenth of
    the training queries is held back for each. Near duplicates and equal texts are known to every later step.
    """

    def __init__(self, *, passages: Any, queries: Any, qrels: Any, home: str | Path = HOME) -> None:
        """Validate three tables; `nightshift.tables.table_of` lists the types accepted.

        Raises:
            BadInput: a table has the wrong type or columns, too many rows break a contract, or no training pair is
                left.
        """
        tables = {
            name: table_of(name, data)
            for name, data in (("passages", passages), ("queries", queries), ("qrels", qrels))
        }
        with TemporaryDirectory() as folder:
            for name, table in tables.items():
                pq.write_table(table, Path(folder) / f"{FILES[name]}.parquet")
            self._read(Path(home), format="parquet", path=Path(folder), feed=_content_name(tables))

    @classmethod
    def _from_source(cls, home: Path, **data: Any) -> Collection:
        collection = cls.__new__(cls)
        collection._read(home, **data)
        return collection

    def _read(self, home: Path, **data: Any) -> None:
        self.home = home
        self._ingested, self.snapshot = ingest(settings_for(home, data={"compare": False, **data}))

    @property
    def splits(self) -> dict[str, int]:
        """Split name → queries with at least one positive in it."""
        return dict(self.snapshot.splits)

    @property
    def refused(self) -> int:
        """Rows in quarantine: they broke a data contract and are in no table."""
        return self.ingested.quarantined

    @property
    def ingested(self) -> Ingested:
        """The receipt of reading the source; its folder holds `quarantine.parquet` with a reason for every row."""
        return self._ingested

    def passages(self) -> Iterator[dict[str, str]]:
        """Stream the passages, ordered by id: passage_id, title, text."""
        for batch in reader.passages(self.snapshot, columns=["passage_id", "title", "text"]):
            yield from batch.to_pylist()

    def queries(self, split: str | None = None) -> pa.Table:
        """Queries (query_id, text), ordered by id: all of them, or those with a positive in `split`."""
        return reader.queries(self.snapshot, split)

    def qrels(self, split: str | None = None) -> pa.Table:
        """Positives (query_id, passage_id, relevance, split): all of them, or those of `split`."""
        return reader.qrels(self.snapshot, split)

    def __len__(self) -> int:
        return self.snapshot.rows

    def __repr__(self) -> str:
        splits = ", ".join(f"{count:,} {name}" for name, count in self.splits.items())
        return f"Collection({len(self):,} passages, {self.snapshot.queries:,} queries: {splits})"


def read_beir(folder: str | Path, *, home: str | Path = HOME) -> Collection:
    """Read a folder in BEIR layout: `corpus.jsonl`, `queries.jsonl`, `qrels/{train,dev,test}.tsv`.

    Args:
        folder: the folder.
        home: where the snapshot, encoders, vectors and everything else is kept.

    Raises:
        BadInput: a file is missing or cannot be read, too many rows break a contract, or no training pair is left.
    """
    return Collection._from_source(Path(home), format="beir", path=Path(folder))


def read_source(path: str | Path, *, query: str = "", passage: str = "", home: str | Path = HOME) -> Collection:
    """Read a source in any format that `nightshift init` recognizes, such as a CSV file of questions and answers.

    Args:
        path: a file, a folder, or an address such as s3://bucket/folder.
        query: column of the query, for pairs in two columns; empty: recognize it.
        passage: column of the passage, likewise.
        home: as `read_beir`.

    Raises:
        BadInput: no reader knows the format, a column is missing, or as `read_beir`.
    """
    recognized = recognize(path, query, passage)
    columns = {f"{role}_column": name for role, name in recognized.columns.items()}
    return Collection._from_source(Path(home), format=recognized.format, path=str(path), **columns)


def read_demo(max_passages: int = 3000, *, home: str | Path = HOME) -> Collection:
    """Read the demo collection: summary sentence → rest of the definition, from the docs of installed packages.

    Args:
        max_passages: upper bound on the number of passages.
        home: as `read_beir`.
    """
    return Collection._from_source(Path(home), format="demo", max_passages=max_passages)


def _content_name(tables: dict[str, pa.Table]) -> str:
    digest = hashlib.sha256()
    for name, table in tables.items():
        digest.update(f"{name} {table.num_rows} {table.schema}".encode())
    return f"tables-{digest.hexdigest()[:12]}"
