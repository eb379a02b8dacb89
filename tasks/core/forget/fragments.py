"""Finds pieces of forgotten texts in files that are no tables: pages, logs, and documents.

Files show texts shortened, escaped, and in parts, so whole texts are not searched for. A piece is a run of `RUN` words
of a forgotten text, or all of a shorter text, that occurs in no row that stays. So a phrase that other rows have too,
such as "what are the symptoms of", is left in place, and the words behind it are not.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

RUN = 4  # words
SHORTEST_WORD, SHORTEST_NUMBER = 3, 8  # characters of a word and of a number that is searched for alone
PLACEHOLDER = "[forgotten]"
_SPACED_SCRIPTS = r"(?:(?![\u3040-\u30ff\u3400-\u9fff])[^\W_])+"
_SPACED = re.compile(_SPACED_SCRIPTS)
_WORD = re.compile(rf"[\u3040-\u30ff\u3400-\u9fff]|{_SPACED_SCRIPTS}")  # each Chinese or Japanese character is a word
_PART = re.compile(rf"{_WORD.pattern}|&(?:#\d+|#x[\da-fA-F]+|[a-zA-Z]\w*);|\\u[\da-fA-F]{{4}}|\\[nrtbf\"\\/]")
_BETWEEN = re.compile(r"[ \t.,;:()\-]*")  # may be replaced together with the words around it; never a quote or a tag
_SOURCES = (".py", ".jinja", ".yaml")

Word = tuple[str, int, int]  # casefolded; start and end in the content
Span = tuple[int, int]


def words_in(text: str) -> list[str]:
    """Return the words of a text, casefolded."""
    return _WORD.findall(text.casefold())


class Fragments:
    """The pieces of forgotten texts that occur in no other text."""

    def __init__(self, texts: Iterable[str], kept: Iterable[str]) -> None:
        """Collect the pieces of `texts`, then leave out those of the texts in `kept`, which is streamed."""
        self._runs: set[tuple[str, ...]] = set()
        self._words: set[str] = set()
        for text in texts:
            words = words_in(text)
            self._words.update(words)
            if len(words) > 1:  # a single word counts below
                self._runs.update(_runs_of(words, min(RUN, len(words))))
        self._sizes = sorted({len(run) for run in self._runs})
        for text in kept:
            words = words_in(text)
            self._words.difference_update(words)
            for size in self._sizes:
                self._runs.difference_update(_runs_of(words, size))
        self._words = {word for word in self._words - _own_words() if _is_telling(word)}
        self._first_words = {run[0] for run in self._runs}

    def __bool__(self) -> bool:
        return bool(self._runs or self._words)

    def find(self, content: str, *, single_words: bool = False) -> list[Span]:
        """Return start and end of each piece in `content`, in order, without overlaps.

        The content may be JSON, HTML, or plain text: escaped letters are read as the letters that they stand for.

        single_words: also find words that only forgotten texts have, such as a name among the terms of a topic. Leave
            it out where a word may be part of the format.
        """
        words = list(_read_words(content))
        texts = [word for word, _, _ in words]
        marked = [single_words and word in self._words for word in texts]
        for first in (place for place, word in enumerate(texts) if word in self._first_words):
            for size in self._sizes:
                run = tuple(texts[first : first + size])
                if run in self._runs:
                    marked[first : first + len(run)] = [True] * len(run)
        if not any(marked):
            return []
        spans: list[Span] = []
        for (_, start, end), is_marked in zip(words, marked, strict=True):
            if not is_marked:
                continue
            if spans and _BETWEEN.fullmatch(content, spans[-1][1], start):
                spans[-1] = (spans[-1][0], end)
            else:
                spans.append((start, end))
        return spans

    def replace(self, content: str, *, single_words: bool = False) -> tuple[str, int]:
        """Return the content with a placeholder for each piece, and the number of pieces; see `find`."""
        spans = self.find(content, single_words=single_words)
        parts, done = [], 0
        for start, end in spans:
            parts += [content[done:start], PLACEHOLDER]
            done = end
        return "".join([*parts, content[done:]]), len(spans)


def _is_telling(word: str) -> bool:
    """Return whether a word alone can show a text: short words and numbers also occur by chance."""
    return len(word) >= (SHORTEST_NUMBER if word.isdecimal() else SHORTEST_WORD)


def _runs_of(words: list[str], size: int) -> Iterator[tuple[str, ...]]:
    return (tuple(words[first : first + size]) for first in range(len(words) - size + 1))


def _read_words(content: str) -> Iterator[Word]:
    """Yield the words of a content with their places. An escaped letter is part of the word around it."""
    word, start, end = "", 0, 0
    for part in _PART.finditer(content):
        text = part.group()
        letters = text[0] not in "&\\"
        if not letters:
            text = _decode(text)
            letters = _WORD.fullmatch(text) is not None
        if word and not (letters and part.start() == end and _SPACED.fullmatch(word + text)):
            yield word.casefold(), start, end
            word = ""
        if letters:
            word, start, end = word + text, start if word else part.start(), part.end()
    if word:
        yield word.casefold(), start, end


def _decode(part: str) -> str:
    """Return the letter that an entity of HTML or an escape of JSON stands for; a space for a line break or a quote."""
    if part.startswith("&"):
        return html.unescape(part)
    if part.startswith("\\u"):
        return chr(int(part[2:], 16))
    return " "


@cache
def _own_words() -> frozenset[str]:
    """Return the words of Nightshift's own pages, messages, and formats, which are never replaced alone."""
    root = Path(__file__).parents[3]
    files = (file for folder in ("tasks", "flows", "data_contracts") for file in (root / folder).rglob("*"))
    return frozenset(
        word for file in files if file.suffix in _SOURCES for word in words_in(file.read_text(encoding="utf-8"))
    )
