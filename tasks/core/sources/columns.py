"""Turns the columns of a typed table into source rows: finds them by their names, and checks what types cannot."""

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
from tasks.core.sources.fields import number_text, relevance, utf8
from tasks.core.sources.rows import SCHEMAS, Fault
from tasks.core.sources.split_names import known_split

_NUMBERS = ("relevance", "title", "text")  # numbers with a point may be in them, as in fields.texts
_PLAIN = r"^(0|-?[1-9][0-9]{0,8})$"  # a whole number of 32 bits, written as we would
_BYTES = {pa.string(): pa.binary(), pa.large_string(): pa.large_binary(), pa.string_view(): pa.binary_view()}


@dataclass(frozen=True)
class Layout:
    """Which columns of a file are which of the table's."""

    table: str
    columns: dict[str, str]  # the table's name -> the file's
    split: str | None  # that the file's name says

    @classmethod
    def of(cls, table: str, schema: pa.Schema, where: str, split: str | None) -> Layout:
        """Find the columns. Raises BadInput when one is missing, or of a type that no text or number can be in."""
        columns = {}
        for name, known in NAMES[table].items():
            found = next((one for one in known if schema.names.count(one) == 1), None)
            if found is None and name not in OPTIONAL:
                raise BadInput(
                    f"{where}: has no column {' or '.join(known)}, only {', '.join(schema.names)}. Rename one."
                )
            if found is not None:
                kind = schema.field(found).type
                if not _usable(kind, number=name in _NUMBERS):
                    raise BadInput(
                        f"{where}: column {found} is of type {kind}, which is no text. Cast it and write it again."
                    )
                columns[name] = found
        return cls(table, columns, split)


def rows_of(batch: pa.RecordBatch, layout: Layout, file: str, first_row: int, done: int) -> pa.RecordBatch:
    """The rows of a batch in the schema `rows.SCHEMAS[table]`; `done` rows of the file came before them.

    Raises pyarrow.ArrowInvalid when the columns are damaged so that their values cannot be told.
    """
    count = batch.num_rows
    faults: dict[int, Fault] = {}
    values = {
        name: _text(batch.column(one), one, faults) for name, one in layout.columns.items() if name != "relevance"
    }
    scores = _scores(batch.column(layout.columns["relevance"]), faults) if layout.table == "qrels" else None
    plain = scores is None or _plain(scores)
    own = dict(values)
    if layout.table == "passages":
        values["title"] = values["title"].fill_null("") if "title" in values else _repeated("", count)
    if scores is not None:
        values["split"] = _splits(values["split"]) if "split" in values else _repeated(layout.split, count)
        values["relevance"] = scores.cast(pa.int32()) if plain else _relevance(scores, values, faults)
    told = range(count) if not plain else sorted(faults)
    records = {place: _record(layout, own, scores, place) for place in told}
    columns = [
        pa.array(np.arange(first_row, first_row + count), pa.int64()),
        _repeated(file, count),
        pa.array(np.arange(done + 1, done + 1 + count), pa.int64()),
        _sparse(records, count),
        _forms(layout, own, records, count),
        *(_sparse({place: fault[part] for place, fault in faults.items()}, count) for part in range(3)),
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
    """A number as text. NaN is how many writers say that there is none."""
    return None if value is None or value != value else number_text(value)


def _splits(names: pa.Array) -> pa.Array:
    """The column with the names of splits that Nightshift uses."""
    encoded = names.dictionary_encode()
    known = [None if name is None else known_split(name) for name in encoded.dictionary.to_pylist()]
    return pa.array(known, pa.string()).take(encoded.indices)


def _text(column: pa.Array, name: str, faults: dict[int, Fault]) -> pa.Array:
    r"""The column as text; what is not UTF-8 is written as \xNN, and its row has a fault."""
    if pa.types.is_integer(column.type) or pa.types.is_null(column.type):
        return column.cast(pa.string())
    if _has_point(column.type):
        return pa.array([_number(value) for value in column.to_pylist()], pa.string())
    content = _content(column)
    try:
        return content.cast(pa.string())
    except pa.ArrowInvalid:
        texts: list[str | None] = []
        for place, one in enumerate(content.to_pylist()):
            texts.append(None if one is None else one.decode("utf-8", "backslashreplace"))
            if one is not None and isinstance(found := utf8(one), Fault):
                faults.setdefault(place, found._replace(detail=f"column {name}: {found.detail}"))
        return pa.array(texts, pa.string())


def _content(column: pa.Array) -> pa.Array:
    """The bytes of a text column, once their bounds have been checked."""
    if pa.types.is_dictionary(column.type):
        return _content(column.dictionary).take(column.indices)
    content = column.view(_BYTES[column.type]) if column.type in _BYTES else column
    content.validate(full=True)
    return content.cast(pa.binary())


def _scores(column: pa.Array, faults: dict[int, Fault]) -> pa.Array:
    """Numbers with a point as they are, everything else as text."""
    return column if _has_point(column.type) else _text(column, "score", faults)


def _plain(scores: pa.Array) -> bool:
    return bool(pa.types.is_string(scores.type) and pc.all(pc.match_substring_regex(scores, _PLAIN)).as_py())


def _relevance(scores: pa.Array, values: dict[str, pa.Array], faults: dict[int, Fault]) -> pa.Array:
    found: list[int | None] = []
    for place, score in enumerate(scores.to_pylist()):
        key = f"{values['query_id'][place]} {values['passage_id'][place]}"
        number = None if score is None else relevance(str(score), key)
        if isinstance(number, Fault):
            faults.setdefault(place, number)
        found.append(None if isinstance(number, Fault) else number)
    return pa.array(found, pa.int32())


def _record(layout: Layout, values: dict[str, pa.Array], scores: pa.Array | None, place: int) -> str:
    """A row as JSON, under the names that the file has for its columns."""
    row = {layout.columns[name]: column[place].as_py() for name, column in values.items()}
    if scores is not None:
        row[layout.columns["relevance"]] = scores[place].as_py()
    return json.dumps(row, ensure_ascii=False, default=str)


def _forms(layout: Layout, values: dict[str, pa.Array], records: dict[int, str], count: int) -> pa.Array:
    """How to write the records that are not written down here, of which quarantine will want but a few."""
    if len(records) == count:
        return pa.nulls(count, pa.string())
    names = {layout.columns[name]: name for name in [*values, *(["relevance"] if layout.table == "qrels" else [])]}
    forms = _repeated(json.dumps(names), count)
    if "title" in values and values["title"].null_count:  # staged as empty
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
    return pa.array([texts.get(place) for place in range(count)], pa.string())


def _repeated(text: str | None, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(text, pa.string()), count)
