"""Do the tokenizer and BM25 read the language of the texts? A look at samples, before any night."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from tasks.core.encoder.learnable import tokenize_sample, warn_of_unknown_tokens

HALF = 0.5  # share of queries without a word in common with the passages that is worth a warning
LIMIT = 512  # tokens of a text that are looked at
IDEOGRAPHS = "\u3041-\u309f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # each a word of its own to Lucene


def language_notes(model: str, tokenizer: Any, queries: Sequence[str], passages: Sequence[str]) -> list[str]:
    """Warnings about texts that the tokenizer of `model`, or BM25, cannot read; sentences without a full stop."""
    unknown = [tokenize_sample(tokenizer, texts, LIMIT).unknown for texts in (queries, passages)]
    notes = [warn_of_unknown_tokens(model, *unknown), _unanswered_note(queries, passages)]
    return [note for note in notes if note]


def share_without_common_word(queries: Sequence[str], passages: Sequence[str]) -> float:
    """The share of the queries that have no word in common with any of the passages, as BM25 divides words."""
    words = {word for text in passages for word in _words(text)}
    return sum(words.isdisjoint(_words(text)) for text in queries) / max(1, len(queries))


def _unanswered_note(queries: Sequence[str], passages: Sequence[str]) -> str:
    share = share_without_common_word(queries, passages)
    if share < HALF:
        return ""
    return (
        f"{share:.0%} of the first {len(queries):,} queries have no word in common with the first {len(passages):,} "
        "passages: BM25 cannot answer them, and a first round mines no negatives for them. It divides words at spaces, "
        "which some scripts do not write"
    )


def _words(text: str) -> list[str]:
    words: list[str] = _word_pattern().findall(text.lower())
    return words


@cache
def _word_pattern() -> re.Pattern[str]:
    """A word: letters, digits, and the marks that belong to them; an ideograph alone."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(f"[{IDEOGRAPHS}]|(?:(?![{IDEOGRAPHS}])[\\w{re.escape(marks)}])+")
