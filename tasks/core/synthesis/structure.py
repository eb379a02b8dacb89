"""Takes queries from the structure of a passage: its title, a heading, a question, its first sentence.

The title of a document as the query of its body is a pair of many training collections, such as that of Wang et al.
2022 (E5, arXiv:2212.03533, section 3). A sentence as the query of its surroundings is the Inverse Cloze Task (Lee et
al. 2019, arXiv:1906.00300).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from tasks.core.text.synthetic_queries import Origin, without_query
from tasks.core.text.words import alphanumeric_words

WORDS = {  # fewest and most words of a query
    Origin.TITLE: (2, 40),
    Origin.HEADING: (2, 16),
    Origin.QUESTION: (4, 30),
    Origin.SENTENCE: (5, 40),
    Origin.GENERATED: (2, 40),
}
LEAST_REST = 10  # words that a passage must have without its query
LEAST_LETTERS = 0.6  # share of letters and spaces in a query; less indicates a table, a formula, or a list
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]]?\s+(?=[\"'(\[]?[^\W\d_a-z])")
_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*$")
_ENDS = (".", "!", "?", ":", ";", ",")


class Candidate(NamedTuple):
    """A synthetic query, where it comes from, and title and text of its passage without it."""

    origin: Origin
    query: str
    title: str
    text: str


def structural_candidates(title: str, text: str) -> Iterator[Candidate]:
    """Yield at most one candidate of each origin that a passage has, each query once."""
    seen: set[str] = set()
    queries = (
        (Origin.TITLE, title),
        (Origin.HEADING, _first_heading(text)),
        (Origin.QUESTION, _first_question(text)),
        (Origin.SENTENCE, _first_sentence(text)),
    )
    for origin, query in queries:
        candidate = make_candidate(origin, query, title, text)
        if candidate is not None and candidate.query.lower() not in seen:
            seen.add(candidate.query.lower())
            yield candidate


def make_candidate(origin: Origin, query: str, title: str, text: str) -> Candidate | None:
    """Return the pair of a query and the rest of its passage; None if either is too short or the query no words."""
    query = " ".join(query.split()).strip(" .;:,")
    fewest, most = WORDS[origin]
    if not fewest <= len(query.split()) <= most or _letters(query) < LEAST_LETTERS:
        return None
    rest_title, rest = without_query(query, title, text)
    if len(alphanumeric_words(rest)) < LEAST_REST:
        return None
    return Candidate(origin, query, rest_title, rest)


def _letters(query: str) -> float:
    return sum(character.isalpha() or character == " " for character in query) / len(query)


def _first_heading(text: str) -> str:
    """Return the first heading: a Markdown heading, or a short line without a full stop above a longer line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line, below in pairwise(lines):
        if marked := _HEADING.match(line):
            return marked[1]
        if not line.endswith(_ENDS) and len(line.split()) <= WORDS[Origin.HEADING][1] and len(below) > 2 * len(line):
            return line
    return ""


def _sentences(text: str) -> list[str]:
    flat = "\n".join(_HEADING.sub("", line.strip()) for line in text.splitlines())
    return [sentence for part in re.split(r"\n\s*\n", flat) for sentence in _SENTENCE_END.split(part) if sentence]


def _first_question(text: str) -> str:
    return next((sentence for sentence in _sentences(text) if sentence.rstrip().endswith("?")), "")


def _first_sentence(text: str) -> str:
    return next((sentence for sentence in _sentences(text) if sentence.strip()), "")
