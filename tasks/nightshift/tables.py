"""Turns what a Python user has at hand (dicts, pandas, Arrow) into the three tables of a collection."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tasks.core.base.errors import BadInput
from tasks.core.snapshot.splits import Split

ID_NAMES = ("_id", "id")
COLUMNS = {  # our column -> the names accepted for it, in order of preference
    "passages": {"_id": ("passage_id", *ID_NAMES, "docid"), "title": ("title",), "text": ("text", "passage")},
    "queries": {"_id": ("query_id", *ID_NAMES), "text": ("text", "query")},
    "qrels": {
        "query-id": ("query_id", "query-id"),
        "corpus-id": ("passage_id", "corpus-id", "doc_id"),
        "score": ("relevance", "score"),
        "split": ("split",),
        "weight": ("weight",),
    },
}
OPTIONAL = {"title": "", "score": 1, "split": Split.TRAIN, "weight": None}  # column -> value, or None: leave it out


def table_of(name: str, data: Any) -> pa.Table:
    """Convert one table of a collection to Arrow, with the column names of BEIR.

    Args:
        name: "passages", "queries" or "qrels".
        data: an Arrow table, a pandas DataFrame, a list of dicts, or a dict. Dicts: passages `{id: text}` or
            `{id: {"title": …, "text": …}}`; queries `{id: text}`; qrels `{query_id: [passage_id, …]}`,
            `{query_id: {passage_id: relevance}}`, or either of these by split, `{"train": {…}, "test": {…}}`.

    Raises:
        BadInput: the data is of another type, or a column is missing.
    """
    if isinstance(data, Mapping):
        data = list(_rows(name, data))
    if hasattr(data, "to_dict") and hasattr(data, "columns"):
        table = pa.Table.from_pandas(data, preserve_index=False)
    elif isinstance(data, pa.Table):
        table = data
    elif isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data):
        table = pa.Table.from_pylist([dict(row) for row in data])
    else:
        raise BadInput(f"{name}: give an Arrow table, a pandas DataFrame, a list of dicts or a dict, not {type(data)}")
    return _named(name, table)


def _named(name: str, table: pa.Table) -> pa.Table:
    columns = {}
    for column, accepted in COLUMNS[name].items():
        present = next((known for known in accepted if known in table.column_names), None)
        if present is not None:
            columns[column] = table[present]
        elif OPTIONAL.get(column) is not None:
            columns[column] = pa.array([OPTIONAL[column]] * table.num_rows)
        elif column not in OPTIONAL:
            raise BadInput(
                f"{name}: no column {' or '.join(accepted)}; the columns are {', '.join(table.column_names) or 'none'}"
            )
    return pa.table(columns)


def _rows(name: str, data: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    if name == "qrels":
        yield from _qrels(data)
        return
    for key, value in data.items():
        yield {"_id": key, **(value if isinstance(value, Mapping) else {"text": value})}


def _qrels(data: Mapping[Any, Any]) -> Iterator[dict[str, Any]]:
    by_split = any(
        isinstance(inner, Mapping) and any(not isinstance(leaf, int | float) for leaf in inner.values())
        for inner in data.values()
    )
    for split, judgments in data.items() if by_split else [(Split.TRAIN, data)]:
        for query, passages in judgments.items():
            scored = passages if isinstance(passages, Mapping) else dict.fromkeys(passages, 1)
            for passage, relevance in scored.items():
                yield {"query_id": query, "passage_id": passage, "relevance": relevance, "split": split}
