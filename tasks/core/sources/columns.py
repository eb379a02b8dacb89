"""Converts the columns of Parquet and Arrow files to source rows: matches names, and checks the values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.base.errors import BadInput
from tasks.core.sources.column_names import NAMES, OPTIONAL
from tasks.core.sources.fields import number_text, relevance, utf8, weight_of
from tasks.core.sources.rows import SCHEMAS, Fault
from tasks.core.sources.split_names import known_split

_NUMBERS = ("relevance", "weight", "title", "text")  # columns that may have floating-point values, as in fields.texts
_CANONICAL_INTEGER = r"^(0|-?[1-9][0-9]{0,8})$"  # fits into 32 bits
_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


@dataclass(frozen=True)
class Layout:
    """The mapping from the columns of a table to those of a file."""

    table: str
    columns: dict[str, str]  # column of the table -> column of the file
    split: str | None  # from the name of the file

    @classmethod
    def match(cls, table: str, schema: pa.Schema, where: str, split: str | None) -> Layout:
        """Match the columns. Raises BadInput when one is missing, or is neither text nor a number."""
        columns = {}
        for name, known in NAMES[table].items():
            column = next((alias for alias in known if schema.names.count(alias) == 1), None)
            if column is None and name not in OPTIONAL:
                raise BadInput(
                    f"{where}: has no column {' or '.join(known)}, only {', '.join(schema.names)}. Rename a column."
                )
            if column is not None:
                kind = schema.field(column).type
                if not _usable(kind, number=name in _NUMBERS):
                    raise BadInput(
                        f"{where}: column {column} has type {kind}, which is not text. Cast it and rewrite the file."
                    )
                columns[name] = column
        return cls(table, columns, split)


def convert_batch(batch: pa.RecordBatch, layout: Layout, file: str, first_row: int, done: int) -> pa.RecordBatch:
    """Return the rows of a batch in the schema `rows.SCHEMAS[table]`.

    Args:
        batch: rows of the file.
        layout: the columns of the file.
        file: name of the file, relative to the source.
        first_row: number of the first row within the table.
        done: number of rows of the file before this batch.

    Raises pyarrow.ArrowInvalid when the columns are corrupt.
    """
    count = batch.num_rows
    faults: dict[int, Fault] = {}
    values = {
        name: _text(batch.column(column), column, faults)
        for name, column in layout.columns.items()
        if name != "relevance"
    }
    scores = _scores(batch.column(layout.columns["relevance"]), faults) if layout.table == "qrels" else None
    canonical = scores is None or _is_canonical(scores)
    originals = dict(values)
    if layout.table == "passages":
        values["title"] = values["title"].fill_null("") if "title" in values else _repeated("", count)
    if scores is not None:
        values["split"] = _splits(values["split"]) if "split" in values else _repeated(layout.split, count)
        values["relevance"] = scores.cast(pa.int32()) if canonical else _relevance(scores, values, faults)
        values["weight"] = _weights(values, faults) if "weight" in values else pa.nulls(count, pa.float64())
    recorded = range(count) if not canonical else sorted(faults)
    records = {index: _record(layout, originals, scores, index) for index in recorded}
    columns = [
        pa.array(np.arange(first_row, first_row + count), pa.int64()),
        _repeated(file, count),
        pa.array(np.arange(done + 1, done + 1 + count), pa.int64()),
        _sparse(records, count),
        _forms(layout, originals, records, count),
        *(_sparse({index: fault[part] for index, fault in faults.items()}, count) for part in range(3)),
    ]
    schema = SCHEMAS[layout.table]
    columns += [values[name] for name in schema.names[len(columns) :]]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _usable(kind: pa.DataType, *, number: bool) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_integer(kind) or pa.types.is_null(kind) or kind in _BYTES or kind in _BYTES.values():
        return True
    return number and _has_point(kind)


def _has_point(kind: pa.DataType) -> bool:
    return bool(pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _number(value: float | Decimal | None) -> str | None:
    """Format a number as text. NaN becomes null: many programs write NaN for a missing value."""
    return None if value is None or value != value else number_text(value)


def _splits(names: pa.Array) -> pa.Array:
    """Return the column with the split names that Nightshift uses."""
    encoded = names.dictionary_encode()
    known = [None if name is None else known_split(name) for name in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.string()).take(encoded.indices)


def _text(column: pa.Array, name: str, faults: dict[int, Fault]) -> pa.Array:
    r"""Return the column as text. Bytes that are not UTF-8 become \xNN, and their rows get a fault."""
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    if _has_point(column.type):
        return pa.array([_number(value) for value in column.to_pylist()], pa.string())
    content = _content(column)
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for index, value in enumerate(content.to_pylist()):
            texts.append(None if value is None else value.decode("utf-8", "backslashreplace"))
            if value is not None and isinstance(fault := utf8(value), Fault):
                faults.setdefault(index, fault._replace(detail=f"column {name}: {fault.detail}"))
        return pa.array(texts, pa.string())


def _content(column: pa.Array) -> pa.Array:
    """Return the bytes of a text column, after checking their bounds."""
    if pa.types.is_dictionary(column.type):
        return _content(column.dictionary).take(column.indices)
    content = column.view(_BYTES[column.type]) if column.type in _BYTES else column
    content.validate(full=True)
    return content.cast(pa.binary())


def _scores(column: pa.Array, faults: dict[int, Fault]) -> pa.Array:
    """Return floating-point and decimal scores unchanged, and all others as text."""
    return column if _has_point(column.type) else _text(column, "score", faults)


def _is_canonical(scores: pa.Array) -> bool:
    return bool(
        pa.types.is_string(scores.type) and pc.all(pc.match_substring_regex(scores, _CANONICAL_INTEGER)).as_py()
    )


def _relevance(scores: pa.Array, values: dict[str, pa.Array], faults: dict[int, Fault]) -> pa.Array:
    numbers: list[int | None] = []
    for index, score in enumerate(scores.to_pylist()):
        key = f"{values['query_id'][index]} {values['passage_id'][index]}"
        number = None if score is None else relevance(str(score), key)
        if isinstance(number, Fault):
            faults.setdefault(index, number)
        numbers.append(None if isinstance(number, Fault) else number)
    return pa.array(numbers, pa.int32())


def _weights(values: dict[str, pa.Array], faults: dict[int, Fault]) -> pa.Array:
    numbers: list[float | None] = []
    for index, text in enumerate(values["weight"].to_pylist()):
        weight = weight_of(text, f"{values['query_id'][index]} {values['passage_id'][index]}")
        if isinstance(weight, Fault):
            faults.setdefault(index, weight)
        numbers.append(None if isinstance(weight, Fault) else weight)
    return pa.array(numbers, pa.float64())


def _record(layout: Layout, values: dict[str, pa.Array], scores: pa.Array | None, index: int) -> str:
    """Return a row as JSON, with the column names of the file."""
    row = {layout.columns[name]: column[index].as_py() for name, column in values.items()}
    if scores is not None:
        row[layout.columns["relevance"]] = scores[index].as_py()
    return json.dumps(row, ensure_ascii=False, default=str)


def _forms(layout: Layout, values: dict[str, pa.Array], records: dict[int, str], count: int) -> pa.Array:
    """Return the column `form`, from which quarantine rebuilds the few records that it needs and `records` lacks."""
    if len(records) == count:
        return pa.nulls(count, pa.string())
    names = {layout.columns[name]: name for name in [*values, *(["relevance"] if layout.table == "qrels" else [])]}
    forms = _repeated(json.dumps(names), count)
    if "title" in values and values["title"].null_count:  # a null title is staged as empty
        without = json.dumps({**names, layout.columns["title"]: None})
        forms = pc.if_else(values["title"].is_null(), without, forms)
    if records:
        given = np.zeros(count, bool)
        given[list(records)] = True
        forms = pc.if_else(pa.array(given), None, forms)
    return forms


def _sparse(texts: Mapping[int, str | None], count: int) -> pa.Array:
    if not texts:
        return pa.nulls(count, pa.string())
    return pa.array([texts.get(index) for index in range(count)], pa.string())


def _repeated(text: str | None, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)
