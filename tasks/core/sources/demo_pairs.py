"""Turns documented definitions into query-passage pairs.

The construction of CodeSearchNet (Husain et al. 2019, arXiv:1909.09436): the first sentence of a docstring is what
somebody would ask for, the rest of the definition is what answers it. The sentence is taken out of the passage
wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.core.sources.demo_modules import Definition, Module, public_names
from tasks.core.sources.demo_near_duplicates import words

_MAX_TEXT = 2000  # characters; about four times what the encoder reads
_MAX_SIGNATURE = 200  # of them; some signatures alone would fill what the encoder reads
_MIN_TEXT = 100
_WORDS = range(4, 41)
_MIN_LETTERS = 0.6  # share of letters and spaces that tells a sentence from a formula or a table
_STUBS = re.compile(
    r"^(deprecated|alias (for|of|to)|see |inherited|overridden|return self|internal|private|todo)", re.I
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(*])")
_CALL = re.compile(r"^[\w.]+\s*\(.*\)(\s*->.*)?$", re.S)  # a signature put before the summary
_ROLE = re.compile(r":[\w:]+:`(?:[^`<]*<)?[~!]?([^`>]*)>?`")
_MARKS = re.compile(r"`{1,2}|\*{1,2}(?=\w)|(?<=\w)\*{1,2}")


@dataclass(frozen=True)
class Pair:
    """One query and the definition that answers it."""

    module: str  # where it is defined: pairs of one module go into one split
    tier: int  # 0 exported, 1 merely public
    title: str  # the public name
    query: str
    summary: str  # the query's sentence as the docstring has it
    definition: Definition


def read_pairs(modules: Mapping[str, Module]) -> Iterator[Pair]:
    """The pairs of all public documented functions, classes and methods of one package, in a fixed order."""
    for (source, name), (tier, called) in sorted(public_names(modules).items()):
        definition = modules[source].definitions[name]
        named = [(called, definition), *((f"{called}.{method.name}", method) for method in definition.methods)]
        for title, one in named:
            summary = _summary(one.doc or "")
            query = _plain(summary)
            if _is_question(query):
                yield Pair(source, tier, title, query, summary, one)


def passage_text(pair: Pair) -> str | None:
    """Signature, remaining docstring and code, at most 2,000 characters; a class lists its methods instead of code.

    None when too little is left, or when the query's words still stand in it (or in the title) in their order.
    """
    one = pair.definition
    methods = f"Methods: {', '.join(method.name for method in one.methods)}" if one.methods else ""
    parts = (_without(pair, part) for part in (_signature(one.head), one.doc or "", one.rest or methods))
    text = _cut("\n".join(part for part in parts if part))
    if len(text) < _MIN_TEXT or _holds(f"{pair.title} {text}", pair.query):
        return None
    return text


def _summary(doc: str) -> str:
    paragraphs = re.split(r"\n\s*\n", doc.strip())
    first = paragraphs[1] if len(paragraphs) > 1 and _CALL.match(paragraphs[0]) else paragraphs[0]
    return _SENTENCE_END.split(" ".join(first.split()), maxsplit=1)[0]


def _plain(sentence: str) -> str:
    """Without markup: `:func:`~numpy.mean`` reads numpy.mean."""
    return _MARKS.sub("", _ROLE.sub(r"\1", sentence)).strip().rstrip(".:;,!").strip()


def _is_question(query: str) -> bool:
    if len(query.split()) not in _WORDS or _STUBS.match(query):
        return False
    letters = sum(character.isalpha() or character == " " for character in query)
    return letters / len(query) >= _MIN_LETTERS and not re.search(r"[{}%|=]|::|\.\. ", query)


def _signature(head: str) -> str:
    """The head on one line, without comments, cut when it is long."""
    lines = (line.strip() for line in head.split("\n"))
    signature = " ".join(line for line in lines if not line.startswith("#")).replace("( ", "(")
    return signature if len(signature) <= _MAX_SIGNATURE else signature[:_MAX_SIGNATURE].rsplit(" ", 1)[0] + " …"


def _without(pair: Pair, part: str) -> str:
    """`part` without the summary sentence, however its lines are broken."""
    for sentence in {pair.summary: None, pair.query: None}:
        pattern = r"\s+".join(re.escape(word) for word in sentence.split())
        part = re.sub(pattern + r"[.:;,!]?", "", part, flags=re.IGNORECASE)
    return re.sub(r"\n{3,}", "\n\n", part).strip()


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return text[:_MAX_TEXT].rsplit(maxsplit=1)[0]


def _holds(text: str, query: str) -> bool:
    return f" {' '.join(words(query))} " in f" {' '.join(words(text))} "
