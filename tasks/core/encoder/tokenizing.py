"""Tokenize texts up to a limit, without tokenizing the text beyond it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_ids(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Return the token ids of each text, including special tokens, cut at `limit`, without padding.

    A text without tokens, such as an empty text without special tokens, gets one padding token.

    If the tokenizer splits at every space, as BERT's does, only the first `limit` words of a text are tokenized:
    nearly every word gives at least one token. If these give too few tokens, the whole text is tokenized. The ids are
    the same either way.
    """
    if not _splits_at_spaces(tokenizer):
        return _tokenize(tokenizer, texts, limit)
    starts = [_first_words(text, limit) for text in texts]
    ids = _tokenize(tokenizer, starts, limit)
    too_short = [row for row, start in enumerate(starts) if len(start) < len(texts[row]) and len(ids[row]) < limit]
    for row, row_ids in zip(too_short, _tokenize(tokenizer, [texts[row] for row in too_short], limit), strict=True):
        ids[row] = row_ids
    return ids


def _splits_at_spaces(tokenizer: Any) -> bool:
    """Return True if no token, and no rule that determines tokens, spans a space."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    rust = tokenizer.backend_tokenizer
    kinds = type(rust.normalizer).__name__, type(rust.pre_tokenizer).__name__
    plain = kinds in (("BertNormalizer", "BertPreTokenizer"), ("NoneType", "BertPreTokenizer"))
    return plain and not any(" " in token for token in tokenizer.get_added_vocab())


def _first_words(text: str, count: int) -> str:
    parts = text.split(" ", count)
    return text if len(parts) <= count else text[: len(text) - len(parts[count]) - 1]


def _tokenize(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)[
        "input_ids"
    ]
    return [row or [tokenizer.pad_token_id] for row in ids]
