"""Takes one training record apart: a query, and the passages that go with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.core.sources.fields import first_value, json_object, number_text, relevance, texts
from tasks.core.sources.rows import Fault, Values
from tasks.core.text.normalization import text_hash

LABELS = ("label", "labels", "score", "relevance")  # fields that say whether the pair of a record is a positive


@dataclass(frozen=True)
class Names:
    """What a format calls the fields of a record; of several names the first that is there counts."""

    query_id: tuple[str, ...]
    query: tuple[str, ...]
    positives: tuple[str, ...]  # each a passage or a list of passages; all of them count
    others: tuple[str, ...]  # passages that are no positives; a name ending in * stands for all that begin so
    passage_id: tuple[str, ...]
    title: tuple[str, ...] = ("title",)
    text: tuple[str, ...] = ("text",)

    @property
    def wanted(self) -> tuple[str, ...]:
        """All names."""
        return (
            *self.query_id, *self.query, *self.positives, *self.others, *self.passage_id, *self.title, *self.text,
            *LABELS,
        )  # fmt: skip


class Part(NamedTuple):
    """A row that a record holds: the table it is of, its own bytes, and its values or what is wrong with it."""

    table: str
    record: bytes
    parsed: Values | Fault


def parts(content: bytes, split: str, names: Names) -> Iterator[Part]:
    """The rows of a record: its query, its passages, and a qrel for each passage among the positives.

    The relevance of a qrel is 1, or the label of a record that is one labeled pair: label 0 says that the passage
    does not answer the query. A label that is no whole number makes no qrel but a refused row.
    A query that cannot be read keeps the whole record with it.
    """
    value = json_object(content, names.wanted)
    if isinstance(value, Fault):
        yield Part("queries", content, value)
        return
    lists = [name for name in value if _is_list(name, names)]
    query = _query(value, names)
    rest = {name: one for name, one in value.items() if name not in lists}
    yield Part("queries", content if isinstance(query, Fault) else _dumped(rest), query)
    labels = _labels(value, names)
    for name in lists:
        for place, entry in enumerate(_entries(value[name])):
            passage = _passage(entry, names, f"field {name}")
            yield Part("passages", _dumped(entry), passage)
            if name in names.positives and not isinstance(query, Fault) and not isinstance(passage, Fault):
                yield _qrel(query, passage, split, labels, place, content)


def _qrel(query: Values, passage: Values, split: str, labels: _Labels | None, place: int, content: bytes) -> Part:
    pair = query[0], passage[0]
    grade = 1 if labels is None else labels.of(place, " ".join(map(str, pair)))
    if isinstance(grade, Fault):
        return Part("qrels", content, grade)
    return Part("qrels", "\t".join(map(str, (*pair, grade))).encode(), (*pair, split, grade))


class _Labels(NamedTuple):
    """The field of a record that judges its pairs: one value for all of its passages, or a list with one for each."""

    name: str
    value: Any

    def of(self, place: int, key: str) -> int | Fault:
        """The relevance of the passage at `place`."""
        value = self.value
        if isinstance(value, list):
            value = value[place] if place < len(value) else None
        if isinstance(value, bool):
            value = int(value)
        text = number_text(value) if isinstance(value, int | float) else value
        grade = relevance(text, key) if isinstance(text, str) else None
        if isinstance(grade, int):
            return grade
        detail = grade.detail if grade else f"no number ({str(value)[:40]})"
        return Fault("bad_score", f"field {self.name}: {detail}; 0 is not relevant, 1 and above relevant", key)


def _labels(value: dict[str, Any], names: Names) -> _Labels | None:
    """The labels of a record. A number in a record that lists other passages as well is a teacher's score."""
    lists = (name for name in value if _is_list(name, names) and name not in names.positives)
    if any(_entries(value[name]) for name in lists):
        return None
    return next((_Labels(name, value[name]) for name in LABELS if name in value), None)


def _is_list(name: str, names: Names) -> bool:
    stems = tuple(one[:-1] for one in names.others if one.endswith("*"))
    return name in names.positives or name in names.others or bool(stems and name.startswith(stems))


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
    return _id(values["id"], None if text is None else _digest(text)), text


def _passage(entry: Any, names: Names, where: str) -> Values | Fault:
    if isinstance(entry, str):
        entry = {names.text[0]: entry}
    if not isinstance(entry, dict):
        return Fault("wrong_type", f"{where} holds a {type(entry).__name__}, expected a passage")
    if not any(name in entry for name in names.text):
        return Fault("missing_field", f"{where} holds a passage without {' or '.join(names.text)}")
    given_id, given_title, given_text = (
        first_value(entry, several) for several in (names.passage_id, names.title, names.text)
    )
    values = texts(given_id, title=given_title, text=given_text)
    if isinstance(values, Fault):
        return values
    title, text = values["title"], values["text"]
    return _id(values["id"], None if text is None else text_hash(title, text)), title or "", text


def _id(name: str | None, digest: str | None) -> str | None:
    return digest if name is None else name


def _digest(query: str) -> str:
    return "q-" + hashlib.sha256(query.encode()).hexdigest()[:20]


def _dumped(value: Any) -> bytes:
    """JSON in UTF-8; where half a surrogate pair is in it, in ASCII with escapes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
