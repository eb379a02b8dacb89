"""Queries from the structure of a passage, and the passage without its query."""

from __future__ import annotations

import re

import pytest

from tasks.core.synthesis.structure import make_candidate, structural_candidates
from tasks.core.text.synthetic_queries import PATTERN, Origin, synthetic_id, trains_whole, without_query

REST = "They sleep in hollow trees by day. Their feathers make no sound, so mice do not hear them come."


def queries(title: str, text: str) -> dict[Origin, str]:
    return {candidate.origin: candidate.query for candidate in structural_candidates(title, text)}


def test_each_part_of_a_passage_becomes_a_query() -> None:
    text = f"## Hunting of owls\n\nOwls hunt small animals at night. How do owls find mice? {REST}"
    assert queries("The life of owls", text) == {
        Origin.TITLE: "The life of owls",
        Origin.HEADING: "Hunting of owls",
        Origin.QUESTION: "How do owls find mice?",
        Origin.SENTENCE: "Owls hunt small animals at night",
    }


def test_a_short_line_above_a_paragraph_is_a_heading() -> None:
    assert queries("", f"Hunting of owls\n{REST}")[Origin.HEADING] == "Hunting of owls"
    assert Origin.HEADING not in queries("", f"Hunting of owls.\n{REST}")


@pytest.mark.parametrize(
    ("origin", "query"),
    [(Origin.TITLE, "Owls"), (Origin.SENTENCE, "12 34 56 78 90 11 12"), (Origin.QUESTION, "why " * 40 + "?")],
    ids=["too short", "no words", "too long"],
)
def test_an_unfit_query_gives_no_pair(origin: Origin, query: str) -> None:
    assert make_candidate(origin, query, "", f"{query} {REST}") is None


def test_a_passage_with_too_little_text_after_its_query_gives_no_pair() -> None:
    assert make_candidate(Origin.TITLE, "The life of owls", "The life of owls", "Owls hunt at night.") is None


def test_the_rest_of_a_passage_does_not_contain_its_query() -> None:
    text = f"The LIFE\n of  owls. {REST} the life of owls"
    title, rest = without_query("The life of owls", "The life of owls", text)
    assert (title, rest) == ("", REST)
    assert without_query("owl", "", "owls and an owlet") == ("", "owls and an owlet")  # not a part of a word


def test_a_tenth_of_the_pairs_trains_with_the_whole_passage() -> None:
    ids = [synthetic_id(Origin.TITLE, f"query {number}", "p") for number in range(2000)]
    assert all(re.match(PATTERN, query_id) for query_id in ids)
    assert 0.07 < sum(map(trains_whole, ids)) / len(ids) < 0.13
