"""Texts are tokenized only up to the limit, with the same ids as the whole text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core.encoder.model_parts import read_tokenizer
from tasks.core.encoder.tokenizing import token_ids

PIECES = st.sampled_from(
    ["river", "a", " ", "  ", "\t", "\x1f", "\u00a0", "\u0301", "é", "河", "[SEP]", "[SE", "P]", "."]
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model: Path) -> Any:
    return read_tokenizer(tiny_model)


@settings(max_examples=200, deadline=None)
@given(texts=st.lists(st.lists(PIECES, max_size=40).map("".join), max_size=3), limit=st.integers(3, 12))
def test_ids_equal_those_of_the_whole_text(tokenizer: Any, texts: list[str], limit: int) -> None:
    whole = [tokenizer(text, truncation=True, max_length=limit)["input_ids"] for text in texts]
    assert token_ids(tokenizer, texts, limit) == whole


def test_words_beyond_the_limit_are_not_tokenized(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    given_texts: list[str] = []

    def spy(texts: list[str], **options: Any) -> Any:
        given_texts.extend(texts)
        return type(tokenizer).__call__(tokenizer, texts, **options)

    class Watched:
        def __getattr__(self, name: str) -> Any:
            return getattr(tokenizer, name)

        def __call__(self, texts: list[str], **options: Any) -> Any:
            return spy(texts, **options)

    assert len(token_ids(Watched(), ["river " * 1000], 6)[0]) == 6
    assert given_texts == ["river river river river river river"]


def test_a_token_that_contains_a_space_is_kept_across_the_cut(tiny_model: Path) -> None:
    tokenizer = read_tokenizer(tiny_model)
    tokenizer.add_tokens(["river bank"])
    text = "a river bank " * 20
    assert token_ids(tokenizer, [text], 8) == [tokenizer(text, truncation=True, max_length=8)["input_ids"]]
