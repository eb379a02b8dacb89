"""Checks on samples whether the tokenizer and BM25 can read the language of the texts."""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from typing import Any

from tasks.core.encoder.learnable import tokenize_sample, warn_of_unknown_tokens

HALF = 0.5  # share of queries without a common word with the passages from which a warning is given
LIMIT = 512  # tokens checked per text
IDEOGRAPHS = "\u3041-\u309f\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Lucene treats each as a word


def language_notes(model: str, tokenizer: Any, queries: Sequence[str], passages: Sequence[str]) -> list[str]:
    """Return warnings about texts that the tokenizer of `model`, or BM25, cannot read (without a full stop)."""
    unknown = [tokenize_sample(tokenizer, texts, LIMIT).unknown for texts in (queries, passages)]
    notes = [warn_of_unknown_tokens(model, *unknown), _warn_of_no_common_word(queries, passages)]
    return [note for note in notes if note]


def share_without_common_word(queries: Sequence[str], passages: Sequence[str]) -> float:
    """Return the share of queries that have no word in common with any passage, split into words as BM25 does."""
    words = {word for text in passages for word in _words(text)}
    return sum(words.isdisjoint(_words(text)) for text in queries) / max(1, len(queries))


def _warn_of_no_common_word(queries: Sequence[str], passages: Sequence[str]) -> str:
    share = share_without_common_word(queries, passages)
    if share < HALF:
        return ""
    return (
        f"{share:.0%} of the first {len(queries):,} queries have no word in common with the first {len(passages):,} "
        "passages: BM25 cannot answer them, and the first mining round finds no negatives for them. BM25 splits words "
        "at spaces, which some scripts do not use"
    )


def _words(text: str) -> list[str]:
    words: list[str] = _word_pattern().findall(text.lower())
    return words


@cache
def _word_pattern() -> re.Pattern[str]:
    """Return the pattern of a word: letters, digits, and their combining marks; or one ideograph."""
    marks = "".join(chr(code) for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M")
    return re.compile(f"[{IDEOGRAPHS}]|(?:(?![{IDEOGRAPHS}])[\\w{re.escape(marks)}])+")
