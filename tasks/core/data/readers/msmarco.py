"""Reads an MS MARCO folder of tab-separated files, each plain, .gz or .zst. No file has a header.

    collection.tsv      p1<TAB>Owls hunt at night.
    queries.train.tsv   q1<TAB>when do owls hunt
    qrels.train.tsv     q1<TAB>0<TAB>p1<TAB>1, as TREC writes them, or q1<TAB>p1<TAB>1

The split is what stands between `qrels.` and `.tsv`, such as train or dev.small. Its queries come from the file
of the same split, or from one `queries.tsv` that holds all. Query files of splits that nobody judged (such as
eval, or a dev that contains dev.small) are left out, and named in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from tasks.core.data.readers.fields import relevance, utf8
from tasks.core.data.readers.lines import lines
from tasks.core.data.readers.places import Place, Stored
from tasks.core.data.rows import Fault, Parse, Values, batches
from tasks.core.errors import BadInput

_log = logging.getLogger("nightshift.ingest")


@dataclass(frozen=True)
class MsMarcoFolder:
    """The files of one collection."""

    place: Place
    collection: Stored
    queries: list[Stored]
    qrels: dict[str, Stored]  # by split

    def files(self) -> list[Stored]:
        """All of them, in a fixed order."""
        return [self.collection, *self.queries, *self.qrels.values()]

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream one table (passages, queries or qrels) in the schema `rows.SCHEMAS[table]`; titles are empty.

        Raises BadInput for a file that cannot be read.
        """
        parts: Iterable[tuple[Stored, Parse]]
        if table == "passages":
            parts = [(self.collection, _passage)]
        elif table == "queries":
            parts = [(file, _query) for file in self.queries]
        else:
            parts = [(file, partial(_qrel, split)) for split, file in self.qrels.items()]
        first = 0
        for file, parse in parts:
            for batch in batches(table, lines(self.place, file), parse, first):
                first += batch.num_rows
                yield batch


def locate(place: Place) -> MsMarcoFolder:
    """Find the files of the collection in `place`.

    Raises BadInput when a file is missing, or when one is there in two forms.
    """
    here = place.files()
    collection = place.one_of(here, "collection.tsv")
    qrels, queries = _by_split(place, here, "qrels"), _by_split(place, here, "queries")
    if not qrels:
        raise BadInput(f"{place.shown}/qrels.train.tsv: not found, nor any other qrels.<split>.tsv. A night needs one.")
    used = [file for split, file in queries.items() if split in qrels or not split]
    for split in qrels:
        if split not in queries and "" not in queries:
            raise BadInput(
                f"{place.shown}/queries.{split}.tsv: not found, though qrels.{split}.tsv judges its queries. "
                "Put it there, or one queries.tsv with the queries of all splits."
            )
    for file in queries.values():
        if file not in used:
            _log.info("%s: left out, for no qrels file is of its split", place.where(file))
    return MsMarcoFolder(place, collection, used, qrels)


def _by_split(place: Place, files: list[Stored], kind: str) -> dict[str, Stored]:
    found = [file for file in files if file.bare.startswith(f"{kind}.") and file.bare.endswith(".tsv")]
    place.once(found)
    return {file.bare.removeprefix(kind).removesuffix(".tsv").removeprefix("."): file for file in found}


def _passage(content: bytes) -> Values | Fault:
    found = _two(content, "passage id and text")
    return found if isinstance(found, Fault) else (found[0], "", found[1])


def _query(content: bytes) -> Values | Fault:
    return _two(content, "query id and text")


def _two(content: bytes, expected: str) -> tuple[str, str] | Fault:
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t")
    if len(fields) != 2:
        return Fault("malformed_row", f"{len(fields)} columns where {expected} are expected", fields[0][:512])
    return fields[0], fields[1]


def _qrel(split: str, content: bytes) -> Values | Fault:
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t") if "\t" in line else line.split()
    if len(fields) not in (3, 4):
        return Fault("malformed_row", f"{len(fields)} columns where query, (0,) passage and relevance are expected")
    query, passage, score = fields[0], fields[-2], fields[-1]
    number = relevance(score, f"{query} {passage}")
    return number if isinstance(number, Fault) else (query, passage, split, number)
