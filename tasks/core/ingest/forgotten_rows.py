"""Drops the rows of forgotten passages and queries before anything of them is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from tasks.core.ingest.quarantine import Tally
from tasks.core.sources.source import Read
from tasks.core.text.normalization import full_text
from tasks.core.text.tombstones import Tombstones

_IDS = {"passages": {"passage_id": "passages"}, "queries": {"query_id": "queries"}}
_IDS["qrels"] = _IDS["passages"] | _IDS["queries"]  # column -> kind of its ids


class ForgottenRows:
    """Drops rows with a forgotten id or text, and the judgments of dropped rows; counts them by table.

    A row that cannot be read is recognized by its id, if that can be read.
    """

    def __init__(self, tombstones: Tombstones) -> None:
        self._tombstones = tombstones
        self._dropped: dict[str, set[str]] = {"passages": set(), "queries": set()}  # ids, of rows with a forgotten text
        self.counts: Counter[str] = Counter()

    def without(self, read: Read) -> Read:
        """Return a reader of the same tables without forgotten rows; passages and queries are read before qrels."""
        if not self._tombstones:
            return read

        def filtered(table: str) -> Iterator[pa.RecordBatch]:
            for batch in read(table):
                kept = self._kept(table, batch)
                self.counts[table] += kept.count(False)
                yield batch.filter(pa.array(kept, pa.bool_()))

        return filtered

    def count(self, tallies: Sequence[Tally]) -> list[Tally]:
        """Return the row counts with the forgotten rows among the read ones; counts that have them do not change."""
        counts = ((tally, self.counts[tally.table]) for tally in tallies)
        return [replace(tally, read=tally.read - tally.forgotten + rows, forgotten=rows) for tally, rows in counts]

    def _kept(self, table: str, batch: pa.RecordBatch) -> list[bool]:
        forgotten = [False] * batch.num_rows
        for column, kind in _IDS[table].items():
            for place, row_id in enumerate(batch[column].to_pylist()):
                forgotten[place] |= self._is_forgotten(kind, row_id)
        if table != "qrels":
            self._drop_texts(table, batch, forgotten)
        for place, row_id in enumerate(batch["fault_key"].to_pylist()):
            ids = [] if row_id is None else row_id.split(" ") if table == "qrels" else [row_id]
            forgotten[place] |= any(self._is_forgotten(kind, name) for name in ids for kind in _IDS[table].values())
        return [not dropped for dropped in forgotten]

    def _is_forgotten(self, kind: str, row_id: str | None) -> bool:
        return row_id is not None and (row_id in self._dropped[kind] or self._tombstones.match_id(kind, row_id))

    def _drop_texts(self, table: str, batch: pa.RecordBatch, forgotten: list[bool]) -> None:
        """Mark the rows with a forgotten text, and remember their ids."""
        (column, kind), texts = next(iter(_IDS[table].items())), batch["text"].to_pylist()
        titles = batch["title"].to_pylist() if table == "passages" else [None] * len(texts)
        for place, (title, text) in enumerate(zip(titles, texts, strict=True)):
            if text is not None and self._tombstones.match_text(full_text(title, text)):
                forgotten[place] = True
                self._dropped[kind].add(batch[column][place].as_py())
