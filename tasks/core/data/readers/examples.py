"""Takes one training record apart: a query, and the passages that go with it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from tasks.core.data.readers.fields import broken, json_object
from tasks.core.data.rows import Fault, Values
from tasks.core.data.text import text_hash


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
        )  # fmt: skip


class Part(NamedTuple):
    """A row that a record holds: the table it is of, its own bytes, and its values or what is wrong with it."""

    table: str
    record: bytes
    parsed: Values | Fault


def parts(content: bytes, split: str, names: Names) -> Iterator[Part]:
    """The rows of a record: its query, its passages, and a qrel of 1 for each passage among the positives.

    A query that cannot be read keeps the whole record with it. A number as an id is taken as its digits.
    """
    value = json_object(content, names.wanted)
    if isinstance(value, Fault):
        yield Part("queries", content, value)
        return
    lists = [name for name in value if _is_list(name, names)]
    query = _query(value, names)
    rest = {name: one for name, one in value.items() if name not in lists}
    yield Part("queries", content if isinstance(query, Fault) else _dumped(rest), query)
    for name in lists:
        for entry in _entries(value[name]):
            passage = _passage(entry, names, f"field {name}")
            yield Part("passages", _dumped(entry), passage)
            if name in names.positives and not isinstance(query, Fault) and not isinstance(passage, Fault):
                pair = query[0], passage[0]
                yield Part("qrels", "\t".join(map(str, (*pair, 1))).encode(), (*pair, split, 1))


def _is_list(name: str, names: Names) -> bool:
    stems = tuple(one[:-1] for one in names.others if one.endswith("*"))
    return name in names.positives or name in names.others or bool(stems and name.startswith(stems))


def _entries(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _query(value: dict[str, Any], names: Names) -> Values | Fault:
    if not any(name in value for name in names.query):
        return Fault("missing_field", f"has no field {' or '.join(names.query)}")
    text, name = _first(value, names.query), _first(value, names.query_id)
    return _faulty(text=text, name=name) or (_id(name, None if text is None else _digest(text)), text)


def _passage(entry: Any, names: Names, where: str) -> Values | Fault:
    if isinstance(entry, str):
        entry = {names.text[0]: entry}
    if not isinstance(entry, dict):
        return Fault("wrong_type", f"{where} holds a {type(entry).__name__}, expected a passage")
    if not any(name in entry for name in names.text):
        return Fault("missing_field", f"{where} holds a passage without {' or '.join(names.text)}")
    text, title, name = (_first(entry, one) for one in (names.text, names.title, names.passage_id))
    if fault := _faulty(text=text, title=title, name=name):
        return fault
    return _id(name, None if text is None else text_hash(title, text)), title or "", text


def _first(value: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if name in value), None)


def _faulty(*, text: Any, name: Any, title: Any = None) -> Fault | None:
    key = name if isinstance(name, str) else None
    for what, one in (("text", text), ("title", title)):
        if one is not None and not isinstance(one, str):
            return Fault("wrong_type", f"the {what} is a {type(one).__name__}, expected a string", key)
    if name is not None and (isinstance(name, bool) or not isinstance(name, str | int)):
        return Fault("wrong_type", f"the id is a {type(name).__name__}, expected a string")
    if broken((text, title, key)):
        return Fault("invalid_utf8", "an escape \\ud800 to \\udfff without its pair is no character", key)
    return None


def _id(name: str | int | None, digest: str | None) -> str | None:
    return digest if name is None else str(name)


def _digest(query: str) -> str:
    return "q-" + hashlib.sha256(query.encode()).hexdigest()[:20]


def _dumped(value: Any) -> bytes:
    """JSON in UTF-8; where half a surrogate pair is in it, in ASCII with escapes."""
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode()
