"""Takes JSON records apart into the fields that a table wants, or says what is wrong with them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

from tasks.core.data.rows import Fault

_INT32 = range(-(2**31), 2**31)


def utf8(content: bytes) -> str | Fault:
    """The text of a record."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        return Fault("invalid_utf8", f"byte {error.start + 1} of the record is not UTF-8")


def json_object(content: bytes, wanted: tuple[str, ...]) -> dict[str, Any] | Fault:
    """The JSON object in `content`. A wanted field that stands there twice is a fault: which of them is meant?

    NaN and Infinity, which JSON does not have but many writers leave in fields nobody reads, do no harm.
    """
    text = utf8(content)
    if isinstance(text, Fault):
        return text
    try:
        value = _decoder(wanted)(text)
    except _Repeated as error:
        return Fault("repeated_field", f"field {error} stands there twice")
    except (ValueError, RecursionError) as error:
        return Fault("malformed_json", f"not JSON: {error}")
    if not isinstance(value, dict):
        return Fault("wrong_type", f"a JSON {type(value).__name__} where an object is expected")
    return value


def strings(value: dict[str, Any], required: tuple[str, ...], optional: tuple[str, ...] = ()) -> list[Any] | Fault:
    """The values of the fields, each a string or null; null is let through, for the contract says whether it may be.

    The first required field is the key that a fault names.
    """
    key = value.get(required[0])
    key = key if isinstance(key, str) else None
    if missing := [name for name in required if name not in value]:
        return Fault("missing_field", f"has no field {', '.join(missing)}", key)
    found = [value.get(name) for name in (*required, *optional)]
    for name, one in zip((*required, *optional), found, strict=True):
        if one is not None and not isinstance(one, str):
            return Fault("wrong_type", f"field {name} is a {type(one).__name__}, expected a string", key)
    if broken(found):
        return Fault("invalid_utf8", "an escape \\ud800 to \\udfff without its pair is no character", key)
    return found


def broken(texts: Iterable[str | None]) -> bool:
    """Whether one of the texts holds half a surrogate pair, which no UTF-8 can carry."""
    try:
        for text in texts:
            if text is not None and not text.isascii():
                text.encode()
    except UnicodeEncodeError:
        return True
    return False


def relevance(score: str, key: str) -> int | Fault:
    """A whole number of 32 bits."""
    digits = score.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 11 and int(score) in _INT32):
        return Fault("bad_score", f"score {score[:40]!r} is not a whole number", key)
    return int(score)


class _Repeated(Exception):
    """A wanted field that stands twice in one object."""


@cache
def _decoder(wanted: tuple[str, ...]) -> Callable[[str], Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        if len(made) != len(pairs):
            names = [name for name, _ in pairs]
            if twice := [name for name in wanted if names.count(name) > 1]:
                raise _Repeated(", ".join(twice))
        return made

    return json.JSONDecoder(object_pairs_hook=once).decode
