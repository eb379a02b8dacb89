"""Queries as one line of text, as Anserini reads them."""

from __future__ import annotations

import re

from tasks.core.base.languages import SEVERAL_TERMS_PER_WORD

SPLIT_FURTHER = {*SEVERAL_TERMS_PER_WORD, "th"}  # languages where `_TERM` is not an upper bound
QUERY_TERMS = 1_000  # Lucene refuses a query of more than 1,024 different terms
# An upper bound on the terms of Lucene's tokenizer: a run of letters and digits is one term. In scripts without spaces
# (from U+2E80 on), and for symbols, each character is a term.
_TERM = re.compile(r"[^\W\u2e80-\U0010ffff]{1,255}|\S")


def one_line(text: str, language: str) -> str:
    """Convert a query to one line without control characters, where Anserini would split it.

    The line is cut after 1,000 words, or after 250 in a language whose analyzer makes several terms from a word.
    """
    line = re.sub(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+", " ", text).strip()
    words = QUERY_TERMS // (4 if language in SPLIT_FURTHER else 1)
    if len(line) > words:
        for number, term in enumerate(_TERM.finditer(line)):
            if number == words:
                return line[: term.start()]
    return line
