"""Token ids of texts up to a limit, without tokenising what the limit cuts off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def token_ids(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Ids of each text, special tokens included, cut at `limit`; no padding.

    Where the tokenizer splits texts at every space, as BERT's does, it is given the first `limit` words of a text: it
    makes at least one token of nearly every word. A text whose words made too few of them is tokenised whole, so the
    ids are the same in any case.
    """
    if not _spaces_divide(tokenizer):
        return _whole(tokenizer, texts, limit)
    starts = [_first_words(text, limit) for text in texts]
    ids = _whole(tokenizer, starts, limit)
    wanting = [row for row, start in enumerate(starts) if len(start) < len(texts[row]) and len(ids[row]) < limit]
    for row, found in zip(wanting, _whole(tokenizer, [texts[row] for row in wanting], limit), strict=True):
        ids[row] = found
    return ids


def _spaces_divide(tokenizer: Any) -> bool:
    """Whether no token, nor anything that decides one, reaches over a space."""
    if not tokenizer.is_fast or tokenizer.truncation_side != "right":
        return False
    rust = tokenizer.backend_tokenizer
    kinds = type(rust.normalizer).__name__, type(rust.pre_tokenizer).__name__
    plain = kinds in (("BertNormalizer", "BertPreTokenizer"), ("NoneType", "BertPreTokenizer"))
    return plain and not any(" " in token for token in tokenizer.get_added_vocab())


def _first_words(text: str, wanted: int) -> str:
    parts = text.split(" ", wanted)
    return text if len(parts) <= wanted else text[: len(text) - len(parts[wanted]) - 1]


def _whole(tokenizer: Any, texts: Sequence[str], limit: int) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(list(texts), truncation=True, max_length=limit, return_attention_mask=False)[
        "input_ids"
    ]
    return ids
