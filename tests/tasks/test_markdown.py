"""Markdown artifacts show any text unchanged."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tasks.artifact_markdown import WIDEST, escape, shorten, table

READER = MarkdownIt("commonmark").enable(["table", "strikethrough"])
MARKUP = [
    "a*b*c",
    "__d__",
    "`code` | pipe",
    "<b>x</b>",
    "[link](http://x.test/)",
    "# head",
    "&amp;",
    "1. x",
    r"a\*b",
    "~~x~~",
]


def cells(lines: list[str]) -> list[str]:
    """Return the visible texts of the cells of a table; fail on markup inside a cell."""
    visible = []
    for token in READER.parse("\n".join(lines)):
        if token.type == "inline":
            assert all(child.type in ("text", "text_special") for child in token.children or ()), token.content
            visible.append("".join(child.content for child in token.children or ()).replace("\u2060", ""))
    return visible


@given(st.lists(st.one_of(st.sampled_from(MARKUP), st.text(max_size=20)), min_size=1, max_size=4))
def test_markup_in_text_is_escaped(texts: list[str]) -> None:
    texts = [f"x{' '.join(text.split())}".replace("\0", "").replace("\u2060", "") for text in texts]
    assert cells(table(("text", "number"), [(text, 0.5) for text in texts])) == [
        "text",
        "number",
        *(cell for text in texts for cell in (text, "0.5000")),
    ]


def test_an_address_in_text_is_not_a_link() -> None:
    for text in ("see http://x.test/a", "see www.x.test", "mail someone@x.test"):
        assert "\u2060" in escape(text)  # an invisible character splits the address
        assert READER.renderInline(escape(text)).replace("\u2060", "") == text


def test_columns_are_narrow_and_numbers_are_formatted() -> None:
    assert len(shorten("word " * 100)) <= WIDEST + 2
    assert table(("a", "b"), [("x", 1234), ("y", None)])[1:4] == ["| --- | ---: |", "| x | 1,234 |", "| y |  |"]
    assert table(("a",), []) == []
