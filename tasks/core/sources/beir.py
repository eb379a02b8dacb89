"""Reads a BEIR folder: `corpus.jsonl`, `queries.jsonl` and `qrels/<split>.tsv`, each plain, .gz or .zst.

    corpus.jsonl     {"_id": "p1", "title": "Owls", "text": "Owls hunt at night."}
    queries.jsonl    {"_id": "q1", "text": "when do owls hunt"}
    qrels/train.tsv  query-id<TAB>corpus-id<TAB>score, and below that header: q1<TAB>p1<TAB>1

Fields may have the alternative names in `column_names.NAMES`, and qrels the columns of TREC (q1 0 p1 1). A `qrels.tsv`
in the folder itself is read as `qrels/train.tsv`.

A bad line does not stop the night: it becomes a row with a fault and its raw text, for the quarantine. Only a missing
or unreadable file stops. Row numbers count header and blank lines; blank lines are skipped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.sources.column_names import NAMES, OPTIONAL, all_names
from tasks.core.sources.fields import first_name, json_object, texts
from tasks.core.sources.judgments import Judged, read_judgments, split_of_qrels
from tasks.core.sources.lines import lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.rows import Fault, Values, batches

_ROOT = "qrels.tsv"
_TEXTS = {table: tuple(NAMES[table])[1:] for table in ("passages", "queries")}  # columns after the id


@dataclass(frozen=True)
class BeirFolder:
    """The files of a BEIR collection."""

    location: Location
    corpus: Stored
    queries: Stored
    qrels: Judged

    def files(self) -> list[Stored]:
        """Return all files in a fixed order."""
        return [self.corpus, self.queries, *(file for _, file in self.qrels)]

    def dialect(self) -> Mapping[str, object]:
        """Return an empty mapping: the rows depend only on the content of the files."""
        return {}

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream a table (passages, queries, or qrels) in the schema `rows.SCHEMAS[table]`.

        Raises BadInput for a file that cannot be read, or a qrels header that lacks a column.
        """
        if table == "qrels":
            yield from read_judgments(self.location, self.qrels)
        else:
            file = self.corpus if table == "passages" else self.queries
            yield from batches(table, lines(self.location, file), partial(_row, table))


def locate(location: Location) -> BeirFolder:
    """Find the files of the collection in `location`.

    Raises BadInput when a file is missing, or exists both plain and compressed.
    """
    files = location.files()
    qrels = [file for file in location.files("qrels") if file.bare.endswith(".tsv")]
    corpus, queries = location.find_file(files, "corpus.jsonl"), location.find_file(files, "queries.jsonl")
    qrels = qrels or [file for file in files if file.bare == _ROOT]
    if not qrels:
        raise BadInput(
            f"{location.shown}/qrels: contains no .tsv file. Put the judgments there, one file per split: train.tsv …"
        )
    location.refuse_duplicates(qrels)
    return BeirFolder(
        location, corpus, queries, [(split_of_qrels(location, file, _split_name(file)), file) for file in qrels]
    )


def _split_name(file: Stored) -> str:
    return "" if file.bare == _ROOT else file.bare.removeprefix("qrels/").removesuffix(".tsv")


def _row(table: str, content: bytes) -> Values | Fault:
    value = json_object(content, all_names(table))
    if isinstance(value, Fault):
        return value
    present = {column: first_name(value, names) for column, names in NAMES[table].items()}
    given_id, *given_texts = (None if name is None else value[name] for name in present.values())
    missing = next((column for column, name in present.items() if name is None and column not in OPTIONAL), None)
    if missing:
        known = given_id if isinstance(given_id, str) else None
        names = " or ".join(NAMES[table][missing])
        return Fault("missing_field", f"has no field {names}, only {', '.join(value)[:200]}", known)
    values = texts(given_id, **dict(zip(_TEXTS[table], given_texts, strict=True)))
    if isinstance(values, Fault):
        return values
    row = tuple(values.values())
    return row if table == "queries" else (row[0], row[1] or "", row[2])
