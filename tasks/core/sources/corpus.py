"""Reads passages without queries: records with a text column, and text or Markdown documents.

    {"id": "p1", "title": "Owls", "text": "Owls hunt at night."}      .jsonl, .json, .csv, .tsv, .parquet, .arrow

If the folder has a file named corpus, only that file is read, so a BEIR folder is read without its queries and qrels.
A record without an id gets a digest of its text. A Markdown or text document is split at its Markdown headings. A
section without a heading is split at blank lines into passages of at most 200 words. The title of a passage is the
name of its document and the heading of its section.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.sources.column_names import NAMES
from tasks.core.sources.fields import first_value, json_object, texts, utf8
from tasks.core.sources.lines import LONGEST
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.pairs import ENDINGS, columns_of, read_records
from tasks.core.sources.rows import SCHEMAS, Fault, Raw, Rows, Values
from tasks.core.text.normalization import text_hash

DOCUMENTS = (".md", ".markdown", ".txt")
WORDS = 200  # most words of a passage that is cut from a document
_CORPUS = "corpus"
_IDS, _TITLES, _TEXTS = (NAMES["passages"][name] for name in ("passage_id", "title", "text"))
_MORE_TEXTS = ("content", "body", "document")
_HEADING = re.compile(r"#{1,6}[ \t]+(.+?)[ \t]*#*[ \t]*$")


@dataclass(frozen=True)
class CorpusFiles:
    """The files of a corpus, and the column of the text in its records."""

    location: Location
    data_files: list[Stored]
    text: str  # empty: there are only documents

    def files(self) -> list[Stored]:
        """Return all files, ordered by name."""
        return self.data_files

    def dialect(self) -> Mapping[str, object]:
        """Return the column of the text."""
        return {"text": self.text, "words": WORDS}

    def read(self, table: str) -> Iterator[pa.RecordBatch]:
        """Stream a table in the schema `rows.SCHEMAS[table]`; only passages have rows.

        Raises BadInput for a file that cannot be read.
        """
        if table != "passages":
            yield pa.RecordBatch.from_pylist([], SCHEMAS[table])
            return
        rows = Rows(table)
        for file in self.data_files:
            for raw, parsed in self._rows(file):
                rows.add(raw, parsed)
                if rows.full:
                    yield rows.take()
        if rows.waiting:
            yield rows.take()

    def _rows(self, file: Stored) -> Iterator[tuple[Raw, Values | Fault]]:
        if file.bare.endswith(DOCUMENTS):
            yield from _sections(self.location, file)
            return
        wanted = (*_IDS, *_TITLES, self.text)
        for raw in read_records(wanted, self.location, file):
            yield raw, raw.fault or _record(raw.content, wanted, self.text)


def locate(location: Location, passage: str = "") -> CorpusFiles:
    """Find the files of a corpus in `location`, and the text column of its records.

    Args:
        location: the root of the source.
        passage: name of the text column; empty to recognize it.

    Raises BadInput when there is no file, or its records have no text column.
    """
    files = [file for file in location.files(deep=True) if file.bare.endswith((*ENDINGS, *DOCUMENTS))]
    named = [file for file in files if PurePosixPath(file.bare).stem == _CORPUS]
    files = named or files
    if not files:
        raise BadInput(f"{location.shown}: contains no passages ({', '.join((*ENDINGS, *DOCUMENTS))}).")
    location.refuse_duplicates(files)
    records = next((file for file in files if not file.bare.endswith(DOCUMENTS)), None)
    return CorpusFiles(location, files, "" if records is None else _text_column(location, records, passage))


def _text_column(location: Location, file: Stored, chosen: str) -> str:
    columns = columns_of(location, file)
    known = (chosen,) if chosen else (*_TEXTS, *_MORE_TEXTS)
    column = next((name for name in known if name in columns), None)
    if column is None:
        raise BadInput(
            f"{location.where(file)}: has no column {' or '.join(known)}. Its columns: {', '.join(columns)}. Set "
            "[data] passage_column, or use nightshift init PATH --cold --passage COLUMN."
        )
    return column


def _record(content: bytes, wanted: tuple[str, ...], column: str) -> Values | Fault:
    value = json_object(content, wanted)
    if isinstance(value, Fault):
        return value
    if column not in value:
        return Fault("missing_field", f"has no field {column}, only {', '.join(value)[:200]}")
    values = texts(first_value(value, _IDS), title=first_value(value, _TITLES), text=value[column])
    if isinstance(values, Fault):
        return values
    title, text = values["title"] or "", values["text"]
    digest = None if text is None else text_hash(title, text)
    return (digest if values["id"] is None else values["id"]), title, text


def _sections(location: Location, file: Stored) -> Iterator[tuple[Raw, Values | Fault]]:
    """Yield the passages of a document: id `<file>#<number>`, title, and text. The line is that of the first word."""
    with location.reading(file), location.opened(file) as stream:
        content: bytes = stream.read(LONGEST + 1)
    text = utf8(content)
    if isinstance(text, Fault) or len(content) > LONGEST:
        fault = text if isinstance(text, Fault) else Fault("record_too_long", f"more than the limit of {LONGEST} bytes")
        yield Raw(file.name, 1, content[:LONGEST]), fault
        return
    name = PurePosixPath(file.bare).stem.replace("_", " ").replace("-", " ")
    for number, (line, heading, passage) in enumerate(_split(text), start=1):
        title = f"{name}: {heading}" if heading and heading.lower() != name.lower() else heading or name
        yield Raw(file.name, line, passage.encode()), (f"{file.bare}#{number}", title, passage)


def _split(document: str) -> Iterator[tuple[int, str, str]]:
    """Yield the line number, heading, and text of each passage of a document."""
    heading, start = "", 1
    paragraphs: list[str] = []

    def passage() -> Iterator[tuple[int, str, str]]:
        if paragraphs:
            yield start, heading, "\n\n".join(paragraphs)

    for line, paragraph in _paragraphs(document):
        marked = _HEADING.match(paragraph)
        words = sum(len(part.split()) for part in paragraphs) + len(paragraph.split())
        if marked or (paragraphs and words > WORDS):
            yield from passage()
            paragraphs = []
        if marked:
            heading = marked[1]
            continue
        start = start if paragraphs else line
        paragraphs.append(paragraph)
    yield from passage()


def _paragraphs(document: str) -> Iterator[tuple[int, str]]:
    """Yield the first line number and the text of each paragraph; a heading is a paragraph of its own."""
    lines: list[str] = []
    start = 1
    for number, line in enumerate([*document.removeprefix("\ufeff").splitlines(), ""], start=1):
        marked = _HEADING.match(line)
        if lines and (marked or not line.strip()):
            yield start, "\n".join(lines)
            lines = []
        if marked:
            yield number, line
        elif line.strip():
            start = start if lines else number
            lines.append(line.rstrip())
