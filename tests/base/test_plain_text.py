"""Check text from outside, and escape it for a terminal."""

from __future__ import annotations

import pytest

from tasks.core.base.plain_text import check_text, visible


def test_valid_utf8_text_is_unchanged() -> None:
    for text in ("", "plain", "tab\tline\n", "😀 ü ا‌ب", "\x1b[31m"):
        assert check_text(text) == text


def test_nul_and_lone_surrogates_are_refused_with_the_reason() -> None:
    for text, reason in (("a\0b", "NUL"), ("nice \ud83d", r"\\ud83d"), ("caf\udce9", r"\\xe9")):
        with pytest.raises(ValueError, match=reason):
            check_text(text)


def test_control_characters_are_escaped_and_other_text_is_unchanged() -> None:
    assert visible("\x1b[31mred\x1b[0m\x1b]0;title\x07") == "␛[31mred␛[0m␛]0;title␇"
    assert visible("over\rwritten\x08\x7f\x9b2J caf\udce9 \ud83d") == "over␍written␈␡\\x9b2J caf\\xe9 \\ud83d"
    assert visible("tab\tline\n😀 ü ا‌ب") == "tab\tline\n😀 ü ا‌ب"
