"""Definitions of the report's terms, and the marks of gate checks."""

from __future__ import annotations

from typing import NamedTuple

from tasks.core.evaluation.gate import GateCheck
from tasks.core.mining.filters import Reason

TERMS = {
    "nDCG@10": "Normalized discounted cumulative gain of the first ten passages: 1 when the relevant passages come "
    "first, 0 when none is among the ten. The mean over the held-out queries.",
    "MRR@10": "Mean reciprocal rank: 1 divided by the rank of the first relevant passage, 0 when none is among the "
    "first ten. The mean over the held-out queries.",
    "Recall@100": "The share of the relevant passages that are among the first hundred.",
    "MAP@100": "Mean average precision over the first hundred passages.",
    "interval": "The confidence interval of the mean difference, by a paired bootstrap over the queries. "
    "[gate] confidence sets its one-sided level.",
    "margin": "The largest drop in nDCG@10 that does not count as a loss ([gate] margin).",
    "gate": "The checks that decide whether the challenger is promoted.",
    "challenger": "The encoder that this night proposes to serve, and how it ranks.",
    "its encoder alone": "The dense ranking of the challenger, without BM25.",
    "base model alone": "The dense ranking of the base model, without BM25.",
    "serving release": "The encoder, collection, and indexes that answered searches when the night began.",
    "base model": "The encoder before your training.",
    "BM25": "Keyword ranking, without an encoder.",
    "segment": "A part of the held-out queries, such as long queries, that is evaluated separately.",
    "probe": "A first comparison on a pool of passages, before embedding the whole corpus.",
    "hard negative": "A passage that a retriever ranks high for a query although it does not answer it. Training "
    "learns to rank it lower.",
    "churn": "The share of the query-negative pairs that the serving encoder was not trained on.",
    "quarantine": "The rows of the source that a data contract refused, each with its reason.",
    "evidence": "A number that grows when new queries score lower than usual, window after window, and shrinks "
    "otherwise. If it passes the line, drift is confirmed.",
    "pointer": "The one entry that names the serving release; searches follow it.",
}

REFUSED = {  # why mining refuses a candidate: a predicate of “the candidate …”
    Reason.KNOWN_POSITIVE: "is judged relevant to the query",
    Reason.TEXT_OF_POSITIVE: "has the text of a passage that is judged relevant",
    Reason.TEXT_OF_QUERY: "only repeats the query",
    Reason.RANK_WINDOW: "is outside the ranks that mining uses ([mining] skip_top, last_rank)",
    Reason.NEAR_DUPLICATE: "is a near duplicate of a relevant passage",
    Reason.ABOVE_MARGIN: "scores nearly as high as a relevant passage ([mining] margin)",
    Reason.CROSS_ENCODER: "is relevant according to the cross-encoder",
    Reason.REPEATED: "repeats a negative of the query",
}


class Mark(NamedTuple):
    """Mark of a check: a sign, a word for screen readers, and a CSS class."""

    sign: str
    word: str
    style: str


PASSED, FAILED, INFORMS = Mark("✓", "passed", "good"), Mark("✗", "failed", "bad"), Mark("!", "note", "note")


def mark_of(check: GateCheck) -> Mark:
    """Return the mark of a gate check. A loss that does not affect the decision is a note."""
    if not check.held:
        return FAILED
    return INFORMS if check.informs else PASSED
