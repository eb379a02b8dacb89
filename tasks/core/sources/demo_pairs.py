"""Turns documented definitions into query-passage pairs.

The construction of CodeSearchNet (Husain et al. 2019, arXiv:1909.09436): the first sentence of a docstring is the
query, and the rest of the definition is the passage. The sentence is removed from the passage wherever it occurs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tasks.core.sources.demo_modules import Definition, Module, public_names
from tasks.core.text.words import alphanumeric_words

_MAX_TEXT = 2000  # characters; about four times the token limit of the encoder
_MAX_SIGNATURE = 200  # characters; some signatures alone would exceed the token limit
_MIN_TEXT = 100
_WORDS = range(4, 41)
_MIN_LETTERS = 0.6  # share of letters and spaces; less indicates a formula or a table
_STUBS = re.compile(
    r"^(deprecated|alias (for|of|to)|see |inherited|overridden|return self|internal|private|todo)", re.I
)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(*])")
_CALL = re.compile(r"^[\w.]+\s*\(.*\)(\s*->.*)?$", re.S)  # a signature before the summary
_ROLE = re.compile(r":[\w:]+:`(?:[^`<]*<)?[~!]?([^`>]*)>?`")
_MARKS = re.compile(r"`{1,2}|\*{1,2}(?=\w)|(?<=\w)\*{1,2}")


@dataclass(frozen=True)
class Pair:
    """A query and the definition that answers it."""

    module: str  # the defining module; all pairs of a module are in one split
    tier: int  # 0: exported, 1: public but not exported
    title: str  # the public name
    query: str
    summary: str  # the sentence in the docstring, with markup
    definition: Definition


def read_pairs(modules: Mapping[str, Module]) -> Iterator[Pair]:
    """Yield the pairs of all documented public functions, classes, and methods of a package, in fixed order."""
    for (source, name), (tier, public_name) in sorted(public_names(modules).items()):
        definition = modules[source].definitions[name]
        methods = ((f"{public_name}.{method.name}", method) for method in definition.methods)
        for title, documented in [(public_name, definition), *methods]:
            summary = _summary(documented.doc or "")
            query = _plain(summary)
            if _is_question(query):
                yield Pair(source, tier, title, query, summary, documented)


def passage_text(pair: Pair) -> str | None:
    """Return signature, remaining docstring, and code, at most 2,000 characters; a class has its methods, not its code.

    Returns None when the text is too short, or when it (or the title) still contains the words of the query in order.
    """
    definition = pair.definition
    methods = f"Methods: {', '.join(method.name for method in definition.methods)}" if definition.methods else ""
    parts = (
        _remove_summary(pair, part)
        for part in (_signature(definition.head), definition.doc or "", definition.rest or methods)
    )
    text = _cut("\n".join(part for part in parts if part))
    if len(text) < _MIN_TEXT or _contains_words(f"{pair.title} {text}", pair.query):
        return None
    return text


def _summary(doc: str) -> str:
    paragraphs = re.split(r"\n\s*\n", doc.strip())
    first = paragraphs[1] if len(paragraphs) > 1 and _CALL.match(paragraphs[0]) else paragraphs[0]
    return _SENTENCE_END.split(" ".join(first.split()), maxsplit=1)[0]


def _plain(sentence: str) -> str:
    """Remove markup: `:func:`~numpy.mean`` becomes numpy.mean."""
    return _MARKS.sub("", _ROLE.sub(r"\1", sentence)).strip().rstrip(".:;,!").strip()


def _is_question(query: str) -> bool:
    if len(query.split()) not in _WORDS or _STUBS.match(query):
        return False
    letters = sum(character.isalpha() or character == " " for character in query)
    return letters / len(query) >= _MIN_LETTERS and not re.search(r"[{}%|=]|::|\.\. ", query)


def _signature(head: str) -> str:
    """Return the head on one line, without comments, cut to the size limit."""
    lines = (line.strip() for line in head.split("\n"))
    signature = " ".join(line for line in lines if not line.startswith("#")).replace("( ", "(")
    return signature if len(signature) <= _MAX_SIGNATURE else signature[:_MAX_SIGNATURE].rsplit(" ", 1)[0] + " …"


def _remove_summary(pair: Pair, part: str) -> str:
    """Return `part` without the summary sentence, regardless of its line breaks."""
    for sentence in {pair.summary: None, pair.query: None}:
        pattern = r"\s+".join(re.escape(word) for word in sentence.split())
        part = re.sub(pattern + r"[.:;,!]?", "", part, flags=re.IGNORECASE)
    return re.sub(r"\n{3,}", "\n\n", part).strip()


def _cut(text: str) -> str:
    if len(text) <= _MAX_TEXT:
        return text
    return text[:_MAX_TEXT].rsplit(maxsplit=1)[0]


def _contains_words(text: str, query: str) -> bool:
    return f" {' '.join(alphanumeric_words(query))} " in f" {' '.join(alphanumeric_words(text))} "
