"""Checks the values of source records: the same rules for ids, scores, titles, and texts in every reader."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from decimal import Decimal
from functools import cache
from math import isfinite
from typing import Any, NamedTuple

from tasks.core.sources.rows import Fault

_INT32 = range(-(2**31), 2**31)
_INTEGER = re.compile(r"([+-]?[0-9]{1,10})(\.0*)?")
_FRACTION = re.compile(r"[+-]?[0-9]*\.[0-9]+([eE][+-]?[0-9]+)?")
_LONE_SURROGATE = "an escape \\ud800 to \\udfff without its pair is not a character"


class Judgment(NamedTuple):
    """The values of a line of a qrels file, as text."""

    query_id: str
    passage_id: str
    score: str
    weight: str | None = None


def utf8(content: bytes) -> str | Fault:
    """Decode a record as UTF-8."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start + 1} of the record is not UTF-8")


def json_object(content: bytes, wanted: tuple[str, ...]) -> dict[str, Any] | Fault:
    """Decode the JSON object in `content`. A wanted field that occurs twice is a fault, because it is ambiguous.

    NaN and Infinity are accepted: JSON does not have them, but many programs write them in unused fields.
    """
    text = utf8(content)
    if isinstance(text, Fault):
        return text
    try:
        value = _decoder(wanted)(text)
    except _Repeated as error:
        return Fault("repeated_field", f"field {error} occurs twice")
    except (ValueError, RecursionError) as error:
        return Fault("malformed_json", f"not JSON: {error}")
    if not isinstance(value, dict):
        return Fault("wrong_type", f"a JSON {type(value).__name__} where an object is expected")
    return value


def first_name(value: dict[str, Any], names: Iterable[str]) -> str | None:
    """Return the first of `names` that is a field of the record, or None."""
    for name in names:
        if name in value:
            return name
    return None


def first_value(value: dict[str, Any], names: Iterable[str]) -> Any:
    """Return the value of the first of `names` that is a field of the record, or None."""
    name = first_name(value, names)
    return None if name is None else value[name]


def texts(given_id: Any, **fields: Any) -> dict[str, str | None] | Fault:
    """Return the id of a row (as `id`) and its other fields as text. Nulls are kept, for the contract to check.

    Text is unchanged. A number becomes text: 1984 and 1984.0 become "1984". A number with a fraction is not an id, and
    true and false are neither ids nor texts.
    """
    key = given_id if isinstance(given_id, str) else None
    if isinstance(given_id, bool) or not (given_id is None or isinstance(given_id, str | int)):
        return Fault("wrong_type", f"the id is a {type(given_id).__name__}, expected text or a whole number")
    values: dict[str, str | None] = {"id": None if given_id is None else str(given_id)}
    for name, value in fields.items():
        if value is None or isinstance(value, str):
            values[name] = value
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Fault("wrong_type", f"the {name} is a {type(value).__name__}, expected text", key)
        if isinstance(value, float) and not isfinite(value):
            return Fault("wrong_type", f"the {name} is {value}, expected text", key)
        values[name] = number_text(value)
    if has_lone_surrogate(values.values()):
        return Fault("invalid_utf8", _LONE_SURROGATE, key)
    return values


def number_text(number: float | Decimal) -> str:
    """Format a number; a whole number has no decimal point."""
    return str(int(number)) if number == number // 1 else str(number)


def has_lone_surrogate(values: Iterable[str | None]) -> bool:
    """Return whether a text contains half of a surrogate pair, which cannot be encoded as UTF-8."""
    try:
        for text in values:
            if text is not None and not text.isascii():
                text.encode()
    except UnicodeEncodeError:
        return True
    return False


def relevance(score: str, key: str) -> int | Fault:
    """Parse a score as a 32-bit integer; 1.0 is 1. A fraction is a fault, because rounding would be a guess."""
    whole = _INTEGER.fullmatch(score)
    if whole and int(whole[1]) in _INT32:
        return int(whole[1])
    if _FRACTION.fullmatch(score):
        return Fault("bad_score", f"score {score[:40]!r} has a fraction; write judgments as whole numbers", key)
    return Fault("bad_score", f"score {score[:40]!r} is not a whole number", key)


def weight_of(text: str | None, key: str) -> float | Fault | None:
    """Parse a weight: a number above 0 and at most 1. No text gives None."""
    if not text:
        return None
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if 0 < number <= 1:
        return number
    return Fault("bad_weight", f"weight {text[:40]!r} is not a number above 0 and at most 1", key)


def judgment(content: bytes, order: tuple[int, ...] | None = None) -> Judgment | Fault:
    """Split a line of a qrels file at its tabs, or at white space if it has no tab.

    Args:
        content: the line: query, passage, score; or in the form of TREC: query, 0, passage, score.
        order: the column numbers of query, passage, score, and perhaps weight from the header, if there is one.
    """
    line = utf8(content)
    if isinstance(line, Fault):
        return line
    fields = line.split("\t") if "\t" in line else line.split()
    if order is not None and len(fields) > max(order):
        return Judgment(*(fields[column] for column in order))
    if order is not None or len(fields) not in (3, 4):
        return Fault("malformed_row", f"{len(fields)} columns where query, (0,) passage and score are expected")
    return Judgment(fields[0], fields[-2], fields[-1])


class _Repeated(Exception):
    """A wanted field that occurs twice in one object."""


@cache
def _decoder(wanted: tuple[str, ...]) -> Callable[[str], Any]:
    def refuse_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs):
            names = [name for name, _ in pairs]
            if repeated := [name for name in wanted if names.count(name) > 1]:
                raise _Repeated(", ".join(repeated))
        return record

    return json.JSONDecoder(object_pairs_hook=refuse_repeats).decode
