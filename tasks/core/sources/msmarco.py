"""Reads an MS MARCO folder of tab-separated files, each plain, .gz or .zst.

    collection.tsv      p1<TAB>Owls hunt at night.
    queries.train.tsv   q1<TAB>when do owls hunt
    qrels.train.tsv     q1<TAB>0<TAB>p1<TAB>1, as TREC writes them, or q1<TAB>p1<TAB>1

A first line of column names (pid<TAB>passage) is a header. The split is the part between `qrels.` and `.tsv`, such as
train or dev.small. Its queries come from the file of the same split, or from a `queries.tsv` for all splits. Query
files of splits without qrels (such as eval, or a dev that contains dev.small) are skipped, and logged.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.sources.judgments import Judged, read_judgments, split_of_qrels
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.split_names import known_split
from tasks.core.sources.tabbed import Tabbed, detect_format

_log = logging.getLogger("nightshift.ingest")


@dataclass(frozen=True)
class MsMarcoFolder:
    """The files of an MS MARCO collection."""

    location: Location
    collection: Tabbed
    queries: list[Tabbed]
    qrels: Judged

    def files(self) -> list[Stored]:
        """Return all files in a fixed order."""
        return [self.collection.file, *(table.file for table in self.queries), *(file for _, file in self.qrels)]

    def dialect(self) -> Mapping[str, object]:
        """Return file name -> header and quoting, for the files that have a header or quoted texts."""
        tables = [self.collection, *self.queries]
        return {table.file.name: table.dialect() for table in tables if table.dialect()}

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream a table (passages, queries, or qrels) in the schema `rows.SCHEMAS[table]`.

        Raises BadInput for a file that cannot be read, or a qrels header that lacks a column.
        """
        if table == "qrels":
            yield from read_judgments(self.location, self.qrels)
            return
        first = 0
        for file in [self.collection] if table == "passages" else self.queries:
            for batch in file.read(self.location, first):
                first += batch.num_rows
                yield batch


def locate(location: Location) -> MsMarcoFolder:
    """Find the files of the collection in `location`.

    Raises BadInput when a file is missing, or exists both plain and compressed.
    """
    files = location.files()
    collection = location.find_file(files, "collection.tsv")
    qrels, queries = _by_split(location, files, "qrels"), _by_split(location, files, "queries")
    if not qrels:
        raise BadInput(
            f"{location.shown}/qrels.train.tsv: not found, nor any other qrels.<split>.tsv. A night needs one."
        )
    judged = [(split_of_qrels(location, file, name), file) for name, file in qrels]
    splits = {split for split, _ in judged}
    known = {known_split(name) for name, _ in queries}
    for split, file in judged:
        if split not in known and "" not in known:
            raise BadInput(
                f"{location.shown}/queries.{split}.tsv: not found, but {file.bare} refers to its queries. "
                "Add it, or a queries.tsv with the queries of all splits."
            )
    used = [file for name, file in queries if not name or known_split(name) in splits]
    for _, file in queries:
        if file not in used:
            _log.info("%s: skipped, because no qrels file has its split", location.where(file))
    judged_queries = [detect_format(location, file, "queries") for file in used]
    return MsMarcoFolder(location, detect_format(location, collection, "passages"), judged_queries, judged)


def _by_split(location: Location, files: list[Stored], kind: str) -> list[tuple[str, Stored]]:
    """Return the files of a kind (queries or qrels), each with the split name in its file name."""
    tables = [file for file in files if file.bare.startswith(f"{kind}.") and file.bare.endswith(".tsv")]
    location.refuse_duplicates(tables)
    return [(file.bare.removeprefix(kind).removesuffix(".tsv").removeprefix("."), file) for file in tables]
