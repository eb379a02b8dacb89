"""Reads a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, each plain, .gz or .zst.

    corpus.jsonl     {"_id": "p1", "title": "Owls", "text": "Owls hunt at night."}
    queries.jsonl    {"_id": "q1", "text": "when do owls hunt"}
    qrels/train.tsv  query-id<TAB>corpus-id<TAB>score, and below that header: q1<TAB>p1<TAB>1

One bad line never stops a night: it becomes a row with a fault and its raw text, for the quarantine. Only a
missing or unreadable file stops. A line's row number counts header and blank lines; blank lines are no rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from tasks.core.data.readers.fields import json_object, relevance, strings, utf8
from tasks.core.data.readers.lines import lines
from tasks.core.data.readers.places import Place, Stored
from tasks.core.data.rows import Fault, Raw, Values, batches
from tasks.core.errors import BadInput

_HEADER = ["query-id", "corpus-id", "score"]


@dataclass(frozen=True)
class BeirFolder:
    """The files of one collection."""

    place: Place
    corpus: Stored
    queries: Stored
    qrels: dict[str, Stored]  # by split

    def files(self) -> list[Stored]:
        """All of them, in a fixed order."""
        return [self.corpus, self.queries, *self.qrels.values()]

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream one table (passages, queries or qrels) in the schema `rows.SCHEMAS[table]`.

        Raises BadInput for a file that cannot be read, or a qrels header of other columns.
        """
        if table == "passages":
            yield from batches(table, lines(self.place, self.corpus), _passage)
        elif table == "queries":
            yield from batches(table, lines(self.place, self.queries), _query)
        else:
            first = 0
            for split, file in self.qrels.items():
                for batch in batches(table, _judgements(self.place, file), partial(_qrel, split), first):
                    first += batch.num_rows
                    yield batch


def locate(place: Place) -> BeirFolder:
    """Find the files of the collection in `place`.

    Raises BadInput when a file is missing, or when one is there in two forms.
    """
    here = place.files()
    qrels = [file for file in place.files("qrels") if file.bare.endswith(".tsv")]
    corpus, queries = place.one_of(here, "corpus.jsonl"), place.one_of(here, "queries.jsonl")
    if not qrels:
        raise BadInput(
            f"{place.shown}/qrels: holds no .tsv file. Put the judgements there, one file a split: train.tsv …"
        )
    place.once(qrels)
    return BeirFolder(place, corpus, queries, {_split(file): file for file in qrels})


def _split(file: Stored) -> str:
    return file.bare.removeprefix("qrels/").removesuffix(".tsv")


def _judgements(place: Place, file: Stored) -> Iterator[Raw]:
    """The lines of a qrels file below its header."""
    for position, raw in enumerate(lines(place, file)):
        if position == 0:
            header = raw.content.decode("utf-8", "replace").split("\t")
            if header == _HEADER:
                continue
            if set(header) & set(_HEADER):
                raise BadInput(
                    f"{place.where(file)}: header is {header}, expected {_HEADER}. Reorder or rename the columns."
                )
        yield raw


def _passage(content: bytes) -> Values | Fault:
    value = json_object(content, ("_id", "text", "title"))
    found = value if isinstance(value, Fault) else strings(value, ("_id", "text"), ("title",))
    if isinstance(found, Fault):
        return found
    name, text, title = found
    return name, title or "", text


def _query(content: bytes) -> Values | Fault:
    value = json_object(content, ("_id", "text"))
    found = value if isinstance(value, Fault) else strings(value, ("_id", "text"))
    return found if isinstance(found, Fault) else tuple(found)


def _qrel(split: str, content: bytes) -> Values | Fault:
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t")
    if len(fields) != len(_HEADER):
        return Fault("malformed_row", f"{len(fields)} columns where query-id, corpus-id and score are expected")
    query, passage, score = fields
    number = relevance(score, f"{query} {passage}")
    return number if isinstance(number, Fault) else (query, passage, split, number)
