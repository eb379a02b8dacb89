"""Splits a training record into rows: a query, its passages, and its qrels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.core.sources.fields import first_value, json_object, number_text, relevance, texts
from tasks.core.sources.rows import Fault, Values
from tasks.core.text.normalization import text_hash

LABELS = ("label", "labels", "score", "relevance")  # fields that hold the relevance of a pair


@dataclass(frozen=True)
class Names:
    """The field names of a format. Of several names, the first one present is used."""

    query_id: tuple[str, ...]
    query: tuple[str, ...]
    positives: tuple[str, ...]  # each field holds a passage or a list of passages; all are read
    negatives: tuple[str, ...]  # other passages; a trailing * matches all names with that prefix
    passage_id: tuple[str, ...]
    title: tuple[str, ...] = ("title",)
    text: tuple[str, ...] = ("text",)
    labels: tuple[str, ...] = LABELS

    @property
    def wanted(self) -> tuple[str, ...]:
        """Return all names."""
        return (
            *self.query_id, *self.query, *self.positives, *self.negatives, *self.passage_id, *self.title, *self.text,
            *self.labels,
        )  # fmt: skip


class Part(NamedTuple):
    """A row of a record: its table, its raw bytes, and its values or its fault."""

    table: str
    record: bytes
    parsed: Values | Fault


def parts(content: bytes, split: str, names: Names) -> Iterator[Part]:
    """Yield the rows of a record: its query, its passages, and a qrel for each positive passage.

    The relevance of a qrel is 1, or the label of a record with one labeled pair (0: the passage does not answer the
    query). A label that is not a whole number gives a refused row. An unreadable query keeps the whole record as its
    raw bytes.
    """
    value = json_object(content, names.wanted)
    if isinstance(value, Fault):
        yield Part("queries", content, value)
        return
    lists = [name for name in value if _is_list(name, names)]
    query = _query(value, names)
    rest = {name: field for name, field in value.items() if name not in lists}
    yield Part("queries", content if isinstance(query, Fault) else _to_json(rest), query)
    labels = _labels(value, names)
    for name in lists:
        for index, entry in enumerate(_entries(value[name])):
            passage = _passage(entry, names, f"field {name}")
            yield Part("passages", _to_json(entry), passage)
            if name in names.positives and not isinstance(query, Fault) and not isinstance(passage, Fault):
                yield _qrel(query, passage, split, labels, index, content)


def _qrel(query: Values, passage: Values, split: str, labels: _Labels | None, index: int, content: bytes) -> Part:
    pair = query[0], passage[0]
    grade = 1 if labels is None else labels.relevance_of(index, " ".join(map(str, pair)))
    if isinstance(grade, Fault):
        return Part("qrels", content, grade)
    return Part("qrels", "\t".join(map(str, (*pair, grade))).encode(), (*pair, split, grade))


class _Labels(NamedTuple):
    """The field of a record with the labels of its pairs: a value for all passages, or a list with one per passage."""

    name: str
    value: Any

    def relevance_of(self, index: int, key: str) -> int | Fault:
        """Return the relevance of the passage at position `index` of its list."""
        value = self.value
        if isinstance(value, list):
            value = value[index] if index < len(value) else None
        if isinstance(value, bool):
            value = int(value)
        text = number_text(value) if isinstance(value, int | float) else value
        grade = relevance(text, key) if isinstance(text, str) else None
        if isinstance(grade, int):
            return grade
        detail = grade.detail if grade else f"not a number ({str(value)[:40]})"
        return Fault("bad_score", f"field {self.name}: {detail}; write 0 for not relevant, 1 or more for relevant", key)


def _labels(value: dict[str, Any], names: Names) -> _Labels | None:
    """Return the labels of a record; None if it also lists negatives, because its numbers are teacher scores."""
    lists = (name for name in value if _is_list(name, names) and name not in names.positives)
    if any(_entries(value[name]) for name in lists):
        return None
    return next((_Labels(name, value[name]) for name in names.labels if name in value), None)


def _is_list(name: str, names: Names) -> bool:
    stems = tuple(field[:-1] for field in names.negatives if field.endswith("*"))
    return name in names.positives or name in names.negatives or bool(stems and name.startswith(stems))


def _entries(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _query(value: dict[str, Any], names: Names) -> Values | Fault:
    if not any(name in value for name in names.query):
        fields = ", ".join(value)[:200]
        return Fault("missing_field", f"has no field {' or '.join(names.query)}, only {fields}")
    values = texts(first_value(value, names.query_id), text=first_value(value, names.query))
    if isinstance(values, Fault):
        return values
    text = values["text"]
    return _id_or_digest(values["id"], None if text is None else _query_digest(text)), text


def _passage(entry: Any, names: Names, where: str) -> Values | Fault:
    if isinstance(entry, str):
        entry = {names.text[0]: entry}
    if not isinstance(entry, dict):
        return Fault("wrong_type", f"{where}: expected a passage, not {type(entry).__name__}")
    if not any(name in entry for name in names.text):
        return Fault("missing_field", f"{where} has a passage without {' or '.join(names.text)}")
    given_id, given_title, given_text = (
        first_value(entry, aliases) for aliases in (names.passage_id, names.title, names.text)
    )
    values = texts(given_id, title=given_title, text=given_text)
    if isinstance(values, Fault):
        return values
    title, text = values["title"], values["text"]
    return _id_or_digest(values["id"], None if text is None else text_hash(title, text)), title or "", text


def _id_or_digest(given_id: str | None, digest: str | None) -> str | None:
    return digest if given_id is None else given_id


def _query_digest(query: str) -> str:
    return "q-" + hashlib.sha256(query.encode()).hexdigest()[:20]


def _to_json(value: Any) -> bytes:
    """Return JSON in UTF-8, or in ASCII with escapes if it contains a lone surrogate."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
