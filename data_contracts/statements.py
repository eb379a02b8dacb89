"""Phrases rules as positive statements about a row, a table, or a pair that passes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from data_contracts.measures import Measured

# (measure, the only allowed value) -> statement. `{p}` is the property, `{entity}` the property without `_id`.
_EXACT: Mapping[tuple[str, object], str] = {
    ("visible", 1): "{p} has visible characters",
    ("breaks", 0): "{p} has no white space and no control characters",
    ("controls", 0): "{p} has no control characters other than tabs and line breaks",
    ("nuls", 0): "{p} has no NUL characters",
    ("replacements", 0): "{p} has no replacement characters (U+FFFD), the trace of a wrong decoding",
    ("mojibake", 0): "{p} was decoded correctly (é is not “Ã©”)",
    ("markup", 0): "{p} has no HTML tags or entities",
    ("boilerplate", 0): "{p} has no standard phrases of web pages, such as “accept all cookies”",
    ("doubles", 0): "{p} has no passage twice",
    ("unshown", 0): "{p} has only passages that were shown",
    ("known", 1): "{p} is the id of an accepted {entity}",
    ("repeats", 0): "no row repeats an earlier row",
    ("conflicts", 0): "no row contradicts an earlier row with the same ids",
    ("splits", 1): "each {entity} is in one split only",
    ("copies", 0): "{p} differs from the {p} of every earlier row",
    ("contradictions", 0): "no judgment of the same passage and the same query text contradicts another",
    ("leaks", 0): "no training query has the same text as a held-out query",
    ("shared", 0): "no held-out query has the same text as a query of another held-out split",
    ("heldout", 0): "no passage of a training pair answers a held-out query",
    ("reserved", 0): "no judgment is about a held-out query",
    ("disputes", 0): "people agree about each pair",
    ("overruled", 0): "no vote contradicts the judgment of a person",
    ("undecided", 0): "no pair has nearly as many votes for as against it",
    ("opposed", 0): "votes do not contradict the source",
}
# Measures with a range: `{range}` is “1 to 512”, “at most 10,000” or “at least 1”.
_RANGE = {
    "chars": "{p} has {range} characters",
    "bytes": "{p} has {range} bytes",
    "tokens": "{p} has {range} tokens (estimated)",
    "value": "{p} is {range}",
    "items": "{p} has {range} passages",
    "clicks": "a {p} has {range} clicks",
    "earlier": "the same {p} came {range} times earlier in the session",
    "positives": "each {entity} has {range} relevant passages",
    "nearness": "the similarity of {p} to earlier rows is {range} (share of equal five-word sequences)",
    "share": "the share of a split's queries that one passage answers is {range}",
    "rows": "the table has {range} rows",
    "growth": "the number of rows is {range} times that of the last snapshot",
    "scripts": "the mix of scripts (Latin, Greek, …) in {p} moved by {range} since the last snapshot",
    "wording": "the most frequent words of {p} are {range} times as frequent as in the last snapshot",
}


def statement(measured: Measured, expectation: str, kwargs: Mapping[str, Any], threshold: str) -> str:
    """Return what is true of everything that passes a rule, as one statement.

    A rule without a phrase in this module is described by its property, its measure, and `threshold`.
    """
    names = {"p": measured.subject, "entity": measured.subject.removesuffix("_id")}
    low, high = kwargs.get("min_value"), kwargs.get("max_value")
    if measured.measure in _RANGE and (low is not None or high is not None):
        return _RANGE[measured.measure].format(range=_range(low, high), **names)
    allowed: Sequence[object] = kwargs.get("value_set") or ()
    if len(allowed) == 1 and (phrase := _EXACT.get((measured.measure, allowed[0]))):
        return phrase.format(**names)
    if expectation == "expect_column_values_to_not_be_null":
        return f"{measured.subject} is present"
    return f"{measured.subject}, {measured.measure}: {threshold}"


def _range(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{low:,} to {high:,}"
    return f"at most {high:,}" if low is None else f"at least {low:,}"
