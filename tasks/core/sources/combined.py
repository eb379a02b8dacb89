"""Reads several sources as one collection.

The file of a row begins with the name of its source, and so does the id of a query: equal ids of two sources are two
queries. Ids of passages are shared: a passage with the same id and text in two sources is one passage, and the data
contract refuses the later of two passages with the same id and different texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.sections.data import SourceSettings
from tasks.core.snapshot.splits import Split

Read = Callable[[str], Iterator[pa.RecordBatch]]
Named = Sequence[tuple[SourceSettings, Callable[[Path], Read]]]  # each source, and what opens it in a scratch folder
CLICKS = "clicks"  # the table of click logs


def open_sources(sources: Named, scratch: Path) -> Read:
    """Open all sources, each with its own folder in `scratch`; return the reader of the tables of all sources."""
    opened: list[tuple[SourceSettings, Read]] = []
    for source, opener in sources:
        folder = scratch / source.name
        folder.mkdir()
        opened.append((source, opener(folder)))

    def read(table: str) -> Iterator[pa.RecordBatch]:
        return numbered(
            _named(batch, source, table)
            for source, reader in opened
            if (source.format == "clicks") == (table == CLICKS)
            for batch in reader(table)
        )

    return read


def numbered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Number the rows of batches of several tables from 0, in order."""
    first = 0
    for batch in batches:
        yield _with(batch, row=pa.array(range(first, first + batch.num_rows), pa.int64()))
        first += batch.num_rows


def query_id(source: str, key: pa.Array | str) -> pa.Array:
    """Return the ids of queries of a source in the collection; null stays null."""
    return pc.binary_join_element_wise(source, key, ":")


def identity_of(sources: Sequence[tuple[SourceSettings, Mapping[str, object]]]) -> dict[str, object]:
    """Return the identity of several sources, given the identity of each."""
    return {
        source.name: {"files": identity, "weight": source.weight, "only_trains": source.only_trains}
        for source, identity in sources
    }


def _named(batch: pa.RecordBatch, source: SourceSettings, table: str) -> pa.RecordBatch:
    columns = {"file": pc.binary_join_element_wise(source.name, batch["file"], "/")}
    if table in ("queries", "qrels"):
        columns["query_id"] = query_id(source.name, batch["query_id"])
    if table == "qrels":
        if source.weight < 1:
            columns["weight"] = pc.multiply(pc.fill_null(batch["weight"], 1.0), source.weight)
        if source.only_trains:
            columns["split"] = pc.if_else(pc.is_valid(batch["split"]), str(Split.TRAIN), batch["split"])
    return _with(batch, **columns)


def _with(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """Return the batch with some columns replaced."""
    values = {**dict(zip(batch.schema.names, batch.columns, strict=True)), **columns}
    return pa.RecordBatch.from_arrays([values[name] for name in batch.schema.names], schema=batch.schema)
