from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from release_fixtures import everywhere
from release_world import HashingEncoder, embeddings_of, encoder_of, snapshot_of, texts

from tasks.core.base.errors import Impossible, NightshiftError
from tasks.core.release.publish import publish
from tasks.core.search.filters import Filters, _after
from tasks.core.search.searcher import Searcher

ODD = [
    'a"b', "a'b", "trail\r", "back\\slash", "new\nline", "tab\there", "é漢", "{x} %s", "both\"'\\", " ", "100%", "1000",
    "a_b", "axb",
    '"] or row >= 0 or passage_id in ["', "' or true", "\\", "\\n", "\x01", "\u2028", "\U0010ffff", "\ud7ff",
]  # fmt: skip


@pytest.fixture
def odd_searcher(settings):
    """Publish a passage per unusual text, which is its id, its title, and the end of its text."""
    rows = [
        {**row, "passage_id": odd, "title": odd, "text": f"{row['text']} {odd}"}
        for row, odd in zip(texts(len(ODD)), ODD, strict=True)
    ]
    encoder, snapshot = encoder_of(settings.home), snapshot_of(settings.home, rows)
    figures = {"metrics": {}, "bm25": {}, "base": {}, "previous": None, "recipe": "", "reason": ""}
    publish(
        settings,
        encoder=encoder,
        embeddings=embeddings_of(settings.home, encoder, snapshot),
        snapshot=snapshot,
        **figures,
        expected_epoch=0,
        loader=HashingEncoder,
    )
    with Searcher.open(settings, HashingEncoder) as searcher:
        yield searcher


def matching_ids(searcher, where):
    return {hit.passage_id for hit in searcher.search("lamp", 100, where=where)[0].hits}


@everywhere
def test_a_filter_returns_exactly_the_matching_passages(odd_searcher):
    for odd in ODD:
        assert matching_ids(odd_searcher, {"passage_id": {"in": [odd]}}) == {odd}
        assert matching_ids(odd_searcher, {"passage_id": {"not_in": [odd]}}) == set(ODD) - {odd}
        assert matching_ids(odd_searcher, {"title": {"prefix": odd}}) == {
            title for title in ODD if title.startswith(odd)
        }
    assert matching_ids(odd_searcher, {"passage_id": {"in": ODD[:3]}, "title": {"prefix": "a"}}) == set(ODD[:2])
    assert matching_ids(odd_searcher, {"passage_id": {"in": ["nobody"]}}) == set()


@pytest.mark.parametrize("settings", ["lite", pytest.param("server", marks=pytest.mark.slow)], indirect=True)
def test_a_server_too_old_for_contains_reports_it_and_keeps_answering(odd_searcher):
    with suppress(Impossible):
        assert matching_ids(odd_searcher, {"title": {"contains": "_b"}}) == {"a_b"}
    assert matching_ids(odd_searcher, None) == set(ODD)


def test_contains_matches_literal_text(odd_searcher):
    for odd in ODD:
        assert matching_ids(odd_searcher, {"title": {"contains": odd}}) == {title for title in ODD if odd in title}
    assert matching_ids(odd_searcher, {"title": {"contains": "0%"}}) == {"100%"}
    assert matching_ids(odd_searcher, {"text": {"contains": " a_b"}}) == {"a_b"}


@examples(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30))
def test_the_parser_reads_any_text_as_a_single_literal(value):
    from milvus_lite.search.filter.tokens import TokenKind, tokenize

    for rule in ("in", "not_in"):
        tokens = tokenize(Filters.read({"title": {rule: [value]}}).expression())
        assert [token.value for token in tokens if token.kind is TokenKind.STRING] == [value]
        assert len(tokens) == (6 if rule == "in" else 7)
    tokens = tokenize(Filters.read({"title": {"contains": value}}).expression())
    assert [token.kind for token in tokens] == [TokenKind.IDENT, TokenKind.LIKE, TokenKind.STRING, TokenKind.EOF]


@examples(max_examples=300, deadline=None)
@given(prefix=st.text(min_size=1, max_size=5), rest=st.text(max_size=5), other=st.text(max_size=6))
def test_a_prefix_is_a_range(prefix, rest, other):
    def inside(text):
        end = _after(prefix)
        return prefix <= text and (end is None or text < end)

    assert inside(prefix + rest)
    assert inside(other) == other.startswith(prefix)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"colour": {"in": ["red"]}}, "colour"),
        ({"title": {"like": "a%"}}, "title.like"),
        ({"title": {}}, "at least one of"),
        ({"title": {"in": []}}, "title.in"),
        ({"title": {"prefix": ""}}, "title.prefix"),
        ({"title": {"contains": "a\0b"}}, "NUL"),
        ({"title": {"in": ["\ud800"]}}, "unicode"),
        ({"title": {"in": ["x"] * 1001}}, "1000"),
        ({"title": "row >= 0"}, "title"),
        ("row >= 0", "filters"),
    ],
)
def test_anything_else_is_refused_with_its_name(where, message):
    with pytest.raises(NightshiftError, match=message):
        Filters.read(where)
