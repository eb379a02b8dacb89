"""Names of synthetic queries, and passages without the synthetic query that was taken from them."""

from __future__ import annotations

import hashlib
import re
from enum import StrEnum

from tasks.core.text.normalization import uniform

JUDGED = "judged-"  # begins the ids of queries that a language model labeled
WHOLE_SHARE = 0.1  # of synthetic pairs that train with the whole passage


class Origin(StrEnum):
    """Where a synthetic query comes from."""

    TITLE = "title"
    HEADING = "heading"
    QUESTION = "question"  # a sentence of the passage that is a question
    SENTENCE = "sentence"  # the first sentence of the passage
    GENERATED = "generated"  # a language model wrote it


# The ids of all synthetic queries, which are their only mark in snapshots, runs, and reports.
PATTERN = f"^synthetic-({'|'.join(Origin)})-[0-9a-f]{{20}}$"


def synthetic_id(origin: Origin, query: str, passage_id: str) -> str:
    """Return the id of a synthetic query: `synthetic-<origin>-<digest of query and passage id>`."""
    digest = hashlib.sha256(f"{query}\0{passage_id}".encode()).hexdigest()[:20]
    return f"synthetic-{origin}-{digest}"


def is_synthetic(row_id: str) -> bool:
    """Return whether an id is that of a synthetic query, or of its passage without the query."""
    return re.match(PATTERN, row_id) is not None


def trains_whole(query_id: str) -> bool:
    """Return whether a synthetic query trains with the whole passage that it was taken from.

    The Inverse Cloze Task (Lee et al. 2019, arXiv:1906.00300, section 5.2) keeps the query in its passage for 10 % of
    the pairs, so that the encoder also learns from equal words.
    """
    return uniform(f"whole {query_id}") < WHOLE_SHARE


def without_query(query: str, title: str, text: str) -> tuple[str, str]:
    """Return title and text without every verbatim copy of the query, for any white space and letter case."""
    words = query.split()
    if not words:
        return title, text
    copy = re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, words)) + r"(?!\w)[.:;,!?]*", re.IGNORECASE)
    rest_title, rest = copy.sub(" ", title), copy.sub(" ", text)
    if (rest_title, rest) == (title, text):
        return title, text
    return " ".join(rest_title.split()), re.sub(r"[ \t]{2,}", " ", rest).strip()
