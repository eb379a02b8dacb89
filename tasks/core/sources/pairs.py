"""Reads files of query-passage pairs in any two columns: JSON, CSV or TSV with a header, Parquet, or Arrow.

    {"question": "when do owls hunt", "answer": "Owls hunt at night."}
    {"query": "when do owls hunt", "pos": ["Owls hunt at night."], "neg": ["Larks sing at dawn."]}     (FlagEmbedding)

The columns of the query and the passage are known by the names below in any case, or set in [data] query_column and
passage_column. A digest of the text is the id. `negative` and `neg` are passages, and `label` (or `score`) is the
relevance of a pair. The file name gives the split; if no file is named train, files without a known split are train.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from functools import partial
from io import TextIOWrapper
from itertools import islice
from typing import Any

from tasks.core.base.errors import BadInput
from tasks.core.sources.examples import LABELS, Names
from tasks.core.sources.fields import json_object
from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.json_array import elements, records
from tasks.core.sources.lines import LONGEST, head_lines
from tasks.core.sources.locations import Location, Stored
from tasks.core.sources.nested import NestedSource
from tasks.core.sources.parquet import opened
from tasks.core.sources.rows import Fault, Raw

QUERIES = ("query", "anchor", "question")
PASSAGES = ("positive", "pos", "passage", "answer", "document", "context", "response")
_OTHERS = ("negative", "neg", "negative_*", "neg_*")
_CLICKS = {"clicked", "click", "clicks", "shown", "impressions"}
_TYPED = (".parquet", ".arrow")
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", *_TYPED)
_SAMPLED_ROWS = 100


def locate(location: Location, query: str = "", passage: str = "") -> NestedSource:
    """Find the files in `location`, and the query and passage columns of their records.

    Args:
        location: the root of the source.
        query: name of the query column; empty to recognize it.
        passage: name of the passage column; empty to recognize it.

    Raises BadInput when there is no file, when no row of the first file can be read, or when a column cannot be
    recognized.
    """
    files = [file for file in location.files(deep=True) if file.bare.endswith(ENDINGS)]
    if not files:
        raise BadInput(f"{location.shown}: contains no file of pairs ({', '.join(ENDINGS)}).")
    location.refuse_duplicates(files)
    columns = columns_of(location, files[0])
    where = location.where(files[0])
    names = Names(
        query_id=(),
        query=(_choose_column(columns, query, QUERIES, "query", where),),
        positives=(_choose_column(columns, passage, PASSAGES, "passage", where),),
        negatives=_OTHERS,
        passage_id=(),
        labels=_label_columns(columns),
    )
    chosen = {"query": names.query[0], "passage": names.positives[0]}
    reader = partial(read_records, (*chosen.values(), *_OTHERS, *names.labels))
    return NestedSource(location, files, reader, names, chosen)


def columns_of(location: Location, file: Stored) -> list[str]:
    """Return the column names of a file, or the field names of its first records.

    Raises BadInput when the file is empty, when none of its first records can be read, and for a file of clicks.
    """
    if file.bare.endswith(_TYPED):
        with location.reading(file), opened(location, file) as (schema, _):
            columns = list(schema.names)
    else:
        columns = _fields(location, file)
    if not columns:
        raise BadInput(
            f"{location.where(file)}: has no row with data. Write column names in its first line and pairs below, or "
            "remove the file."
        )
    if "query" in columns and _CLICKS & set(columns):
        raise BadInput(
            f"{location.where(file)}: looks like a click log (its fields: {', '.join(columns)}). Add it to a source of "
            'passages: [[data.sources]] with format = "clicks".'
        )
    return columns


def _fields(location: Location, file: Stored) -> list[str]:
    fields: dict[str, None] = {}
    fault = ""
    if file.bare.endswith(".jsonl"):
        rows = iter(head_lines(location, file))
    else:
        rows = elements(location, file) if file.bare.endswith(".json") else _delimited_rows(location, file)
    for raw in islice(rows, _SAMPLED_ROWS):
        value = raw.fault or json_object(raw.content, ())
        if isinstance(value, Fault):
            record = raw.content.decode("utf-8", "backslashreplace")
            fault = fault or str(FirstFault("queries", location.where(file), raw.number, value.detail, record))
        else:
            fields |= dict.fromkeys(value)
    if not fields and fault:
        raise BadInput(f"no row can be read. The first: {fault}")
    return list(fields)


def _choose_column(columns: list[str], chosen: str, known: tuple[str, ...], role: str, where: str) -> str:
    candidates = [name for name in ([chosen] if chosen else known) if name in columns]
    if not candidates and not chosen:
        candidates = [name for name in columns if name.strip().casefold() in known]
    if len(candidates) == 1:
        return candidates[0]
    if chosen:
        problem = f"has no column {chosen}"
    elif candidates:
        problem = f"has several columns that could be the {role}: {', '.join(candidates)}"
    else:
        problem = f"has no column with a known name for the {role} ({', '.join(known)})"
    raise BadInput(
        f"{where}: {problem}. Its columns: {', '.join(columns)}. Choose with nightshift init PATH --query COLUMN "
        "--passage COLUMN, or [data] query_column and passage_column."
    )


def _label_columns(columns: list[str]) -> tuple[str, ...]:
    """Return the names of labels, each followed by the columns with that name in another case, such as `Label`."""
    others = [name for name in sorted(columns) if name not in LABELS]
    return tuple(name for label in LABELS for name in (label, *(x for x in others if x.strip().casefold() == label)))


def read_records(wanted: tuple[str, ...], location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the records of a file as JSON, with only the wanted columns if the file is columnar."""
    if file.bare.endswith((".jsonl", ".json")):
        return records(location, file)
    return _columnar_rows(wanted, location, file) if file.bare.endswith(_TYPED) else _delimited_rows(location, file)


def _columnar_rows(wanted: tuple[str, ...], location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the rows of a Parquet or Arrow file as JSON, with only the wanted columns."""
    number = 0
    with location.reading(file, lambda: f" past row {number}"), opened(location, file) as (schema, batches):
        stems = tuple(name[:-1] for name in wanted if name.endswith("*"))
        columns = [name for name in schema.names if name in wanted or name.startswith(stems)]
        for batch in batches:
            for row in batch.select(columns).to_pylist():
                number += 1
                yield Raw(file.name, number, _to_json(row))


def _delimited_rows(location: Location, file: Stored) -> Iterator[Raw]:
    """Yield the rows of a CSV or TSV file with a header as JSON. The number of a row is that of its last line.

    A row with another number of columns than the header, or with broken quoting, has a fault. Raises BadInput when the
    header is not UTF-8, and when broken quoting spans several lines, because the number of lost rows is unknown.
    """
    csv.field_size_limit(LONGEST)
    number = 1
    with location.reading(file, lambda: f" past line {number}"), location.opened(file) as stream:
        text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
        header = text.readline(LONGEST)
        if _has_other_bytes(header):
            record = header.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
            reason = "the header has bytes that are not UTF-8"
            raise BadInput(str(FirstFault("queries", location.where(file), 1, reason, record)))
        delimiter = "\t" if file.bare.endswith(".tsv") else max(",;\t", key=header.count)
        names = next(csv.reader([header], delimiter=delimiter), [])
        rows = csv.reader(text, delimiter=delimiter, strict=True)
        while True:
            before = number
            try:
                row = next(rows, None)
            except csv.Error as error:
                number = rows.line_num + 1
                if number > before + 1:
                    raise BadInput(
                        f"{location.where(file)}: a quote opens on line {before + 1} and is not closed by line "
                        f"{number} ({error}). Double the quotes inside a field, or write the file with a CSV library."
                    ) from error
                yield Raw(file.name, number, b"", Fault("malformed_row", f"broken quoting: {error}"))
                continue
            number = rows.line_num + 1
            if row is None:
                return
            if row:
                yield _row(file.name, number, names, row)


def _row(file: str, number: int, names: list[str], row: list[str]) -> Raw:
    content = ",".join(row).encode("utf-8", "surrogateescape")
    if len(row) != len(names):
        return Raw(
            file, number, content, Fault("malformed_row", f"{len(row)} columns where the header has {len(names)}")
        )
    if any(_has_other_bytes(field) for field in row):
        return Raw(file, number, content, Fault("invalid_utf8", "the row has bytes that are not UTF-8"))
    return Raw(file, number, _to_json(dict(zip(names, row, strict=True))))


def _has_other_bytes(text: str) -> bool:
    """Return whether a text that was decoded with `surrogateescape` had bytes that are not UTF-8."""
    return not text.isascii() and any("\udc80" <= letter <= "\udcff" for letter in text)


def _to_json(row: Mapping[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False, default=_to_text).encode()


def _to_text(value: Any) -> str:
    """Convert a value without a JSON type to text: bytes are decoded as UTF-8, dates are formatted."""
    return value.decode() if isinstance(value, bytes) else str(value)
