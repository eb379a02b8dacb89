"""Pieces of forgotten texts in pages, documents, and logs."""

from __future__ import annotations

import html
import json

from tasks.core.forget.fragments import PLACEHOLDER, Fragments, words_in

TEXT = "What are the symptoms of Zuckerberg's café syndrome in early spring"
KEPT = ["what are the symptoms of measles", "early spring weather"]


def replace(content: str, *, single_words: bool = True) -> str:
    return Fragments([TEXT], KEPT).replace(content, single_words=single_words)[0]


def test_a_shortened_text_is_replaced_and_a_phrase_of_other_rows_stays() -> None:
    assert replace(f"{TEXT[:46]} … | {KEPT[0]}") == f"What are {PLACEHOLDER}'{PLACEHOLDER} syn … | {KEPT[0]}"
    assert replace(KEPT[0]) == KEPT[0]
    assert replace(KEPT[1]) == KEPT[1]


def test_escaped_texts_are_replaced_and_documents_stay_valid() -> None:
    rows = {"query": TEXT, "other": KEPT[0], "list": ["early", "spring"]}
    for ascii_only in (False, True):
        fields = json.loads(replace(json.dumps(rows, ensure_ascii=ascii_only), single_words=False))
        assert fields["other"] == KEPT[0]
        assert "syndrome" not in fields["query"]
        assert "caf" not in fields["query"]
    page = replace(f"<b title='a'>{html.escape(TEXT)}</b><i>{KEPT[1]}</i>")
    assert "café" not in page
    assert page.endswith(f"<i>{KEPT[1]}</i>")


def test_single_words_are_replaced_only_where_they_are_no_part_of_a_format() -> None:
    assert replace('{"zuckerberg": 1}', single_words=False) == '{"zuckerberg": 1}'
    assert replace("topic zuckerberg") == f"topic {PLACEHOLDER}"
    numbers = Fragments(["call 12345678 or 140"], [])
    assert numbers.replace("x=140 y=12345678", single_words=True)[0] == f"x=140 y={PLACEHOLDER}"
    manifest = Fragments(["manifest digest snapshot"], [])
    assert manifest.find("the digest of a snapshot", single_words=True) == []  # words of our own pages


def test_words_of_scripts_without_spaces_are_single_characters() -> None:
    assert words_in("忘れる Text") == ["忘", "れ", "る", "text"]
    assert Fragments(["完全に忘れられた文章"], []).replace("「完全に忘れられ…」")[1] == 1
