"""Counts the readable and unreadable rows of the tables of a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.source import Read
from tasks.core.text.normalization import full_text

MOST_ROWS = 500_000  # counted rows of a table
SAMPLE = 2_000  # the first texts of a table, kept as a sample
_KEYS = {"passages": "passage_id", "queries": "query_id"}


@dataclass
class TableCount:
    """The row counts of a table: `rows` are readable, `unreadable` are not."""

    table: str
    rows: int = 0
    unreadable: int = 0
    first_fault: FirstFault | None = None
    sample: list[str] = field(default_factory=list)  # texts; those of passages include the title
    ids: dict[str, str] = field(default_factory=dict)  # id -> text of the sample
    splits: Counter[str] = field(default_factory=Counter)  # of qrels: number of positives per split
    judged: dict[str, set[str]] = field(default_factory=dict)  # of qrels: the queries with a positive, per split
    not_relevant: int = 0  # of qrels: judgments of 0 or less
    own_passage: int = 0  # number of sampled queries that are also a passage, with the same id and text

    @property
    def full(self) -> bool:
        """Return whether counting stops here."""
        return self.rows >= MOST_ROWS

    def unreadable_rows(self) -> str:
        """Return the number of unreadable rows and the first of them as text; empty when all rows are readable."""
        if not self.first_fault:
            return ""
        total = self.rows + self.unreadable
        share = f"{self.unreadable:,} of {total:,} rows ({self.unreadable / total:.1%})"
        return f"{self.table}: {share} cannot be read; the first: {self.first_fault}"


def count_texts(read: Read, table: str, queries: TableCount | None = None) -> TableCount:
    """Count passages or queries up to MOST_ROWS. With `queries`, count the sampled queries that are also passages.

    Raises BadInput when a file cannot be read.
    """
    count = TableCount(table)
    key = _KEYS[table]
    for batch in read(table):
        _note_faults(count, batch)
        columns = [key, "text", *(["title"] if table == "passages" else [])]
        rows = [row for row in batch.select(columns).to_pylist() if row["text"] is not None]
        for row in rows[: SAMPLE - len(count.sample)]:
            count.sample.append(full_text(row.get("title"), row["text"]))
            count.ids[row[key]] = row["text"]
        if queries is not None:
            queries.own_passage += sum(_is_also_query(row, queries.ids) for row in rows)
        count.rows += len(rows)
        if count.full:
            break
    return count


def count_qrels(read: Read) -> TableCount:
    """Count the judgments up to MOST_ROWS. Raises BadInput when a file cannot be read."""
    count = TableCount("qrels")
    for batch in read("qrels"):
        _note_faults(count, batch)
        readable = batch.filter(pc.is_null(batch["fault"]))
        positive = pc.fill_null(pc.greater(readable["relevance"], 0), False)
        positives = readable.filter(positive)
        splits = positives["split"].to_pylist()
        count.splits.update(splits)
        for split, query in zip(splits, positives["query_id"].to_pylist(), strict=True):
            count.judged.setdefault(split, set()).add(query)
        count.rows += readable.num_rows
        count.not_relevant += readable.num_rows - pc.sum(positive).as_py() if readable.num_rows else 0
        if count.full:
            break
    return count


def _is_also_query(passage: Mapping[str, Any], queries: Mapping[str, str]) -> bool:
    text = queries.get(passage["passage_id"])
    return text is not None and text in (passage["text"], full_text(passage["title"], passage["text"]))


def _note_faults(count: TableCount, batch: pa.RecordBatch) -> None:
    faulty = batch.filter(pc.is_valid(batch["fault"]))
    count.unreadable += faulty.num_rows
    if count.first_fault is None and faulty.num_rows:
        (row,) = faulty.slice(0, 1).to_pylist()
        count.first_fault = FirstFault(count.table, row["file"], row["line"], row["fault_detail"], row["record"] or "")
