"""Drops the rows of forgotten passages and queries before anything of them is stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import compress

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.ingest.quarantine import Tally
from tasks.core.sources.combined import CLICKS
from tasks.core.text.normalization import full_text
from tasks.core.text.tombstones import Tombstones

_IDS = {"passages": {"passage_id": "passages"}, "queries": {"query_id": "queries"}}
_IDS["qrels"] = _IDS["passages"] | _IDS["queries"]  # column -> kind of its ids
_HIDDEN = "the page is not shown here, because rows of this home are forgotten; see its file"


class ForgottenRows:
    """Drops rows with a forgotten id or text, and the judgments of dropped rows; counts them by table.

    A row that cannot be read is recognized by its id, if that can be read. Result pages of a click log are dropped if
    their query is forgotten; forgotten passages are removed from the others, and no page's raw record is kept.
    """

    def __init__(self, tombstones: Tombstones) -> None:
        self._tombstones = tombstones
        self._dropped: dict[str, set[str]] = {"passages": set(), "queries": set()}  # ids, of rows with a forgotten text
        self.counts: Counter[str] = Counter()

    def without(self, table: str, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Stream a table without forgotten rows; passages and queries must be read before qrels."""
        for batch in batches:
            if not self._tombstones:
                yield batch
                continue
            rows, kept = self._other_pages(batch) if table == CLICKS else (batch, self._kept(table, batch))
            self.counts[table] += kept.count(False)
            yield rows.filter(pa.array(kept, pa.bool_()))

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

    def _other_pages(self, pages: pa.RecordBatch) -> tuple[pa.RecordBatch, list[bool]]:
        """Return result pages without forgotten passages, raw records, and details of faults; and which to keep."""
        columns = dict(zip(pages.schema.names, pages.columns, strict=True))
        shown, positions, clicked = (pages[name].to_pylist() for name in ("shown", "positions", "clicked"))
        kept = [not self._tombstones.match_text(query) for query in pages["query"].to_pylist()]
        for place, passages in enumerate(shown):
            stay = [not self._is_forgotten("passages", passage) for passage in passages or ()]
            if not all(stay):
                shown[place] = list(compress(passages, stay))
                positions[place] = list(compress(positions[place], stay))
                clicked[place] = [passage for passage in clicked[place] if not self._is_forgotten("passages", passage)]
                kept[place] &= any(stay)
        for name, lists in (("shown", shown), ("positions", positions), ("clicked", clicked)):
            columns[name] = pa.array(lists, columns[name].type)
        columns["record"] = pa.nulls(pages.num_rows, columns["record"].type)
        columns["fault_detail"] = pc.if_else(pc.is_valid(pages["fault"]), _HIDDEN, pages["fault_detail"])
        return pa.RecordBatch.from_arrays(list(columns.values()), schema=pages.schema), kept

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
