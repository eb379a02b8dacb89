"""The rules that keep false negatives out. A candidate that any rule refuses is never a negative: a query left with
too few gets fewer, and nothing is put in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tasks.core.mining.candidates import Candidates
from tasks.core.mining.pool import Pool
from tasks.core.mining.shingles import expand, near_duplicates, slices
from tasks.core.settings import MiningSettings

PAIRS_AT_ONCE = 1_000_000  # (candidate, positive) pairs looked at together


class Reason(StrEnum):
    """Why a candidate was refused, in the order the rules are asked."""

    KNOWN_POSITIVE = "known_positive"
    TEXT_OF_POSITIVE = "text_of_positive"
    TEXT_OF_QUERY = "text_of_query"
    SKIPPED_RANK = "skipped_rank"
    NEAR_DUPLICATE = "near_duplicate"
    ABOVE_MARGIN = "above_margin"


REASONS = tuple(Reason)
KEPT = -1  # the verdict on a candidate that no rule refuses


@dataclass(frozen=True)
class Facts:
    """What the rules know beside the candidates; a passage is named by its row in `pool`."""

    pool: Pool
    positive_query: np.ndarray  # int64 (n,), ascending: rows of training queries …
    positive_passage: np.ndarray  # int64 (n,): … and their known positives
    positive_score: np.ndarray  # float32 (n,): inner products of these pairs
    query_text: np.ndarray  # int64 (queries,): the text class of passages that say just the query; -1: none does


def judge(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """The verdict on each candidate, int8: KEPT, or the number in REASONS of the first rule that refuses it."""
    verdict = np.full(len(candidates), KEPT, np.int8)
    standing = np.arange(len(candidates))
    for number, reason in enumerate(REASONS):
        refused = RULES[reason](candidates.take(standing), facts, mining)
        verdict[standing[refused]] = number
        standing = standing[~refused]
    return verdict


def known_positive(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """It is a judged positive of the query, in any split."""
    return _in_pairs(candidates.query, candidates.passage, facts.positive_query, facts.positive_passage)


def text_of_positive(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """It has the same text as a positive of the query."""
    text = facts.pool.text
    return _in_pairs(candidates.query, text[candidates.passage], facts.positive_query, text[facts.positive_passage])


def text_of_query(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """It says just what the query says."""
    return facts.pool.text[candidates.passage] == facts.query_text[candidates.query]


def skipped_rank(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """It stands among the first `skip_top` of its run."""
    return candidates.rank <= mining.skip_top


def near_duplicate(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """Its five-word shingles have a Jaccard similarity of `near_duplicate` or more with those of a positive."""
    low = np.searchsorted(facts.positive_query, candidates.query, "left")
    counts = np.searchsorted(facts.positive_query, candidates.query, "right") - low
    refused = np.zeros(len(candidates), bool)
    for some in slices(counts, PAIRS_AT_ONCE):
        at, owner = expand(low[some], counts[some])
        left, right = candidates.passage[some][owner], facts.positive_passage[at]
        near = near_duplicates(facts.pool.sets, left, right, mining.near_duplicate)
        refused[some][owner[near]] = True
    return refused


def above_margin(candidates: Candidates, facts: Facts, mining: MiningSettings) -> np.ndarray:
    """The encoder scores it above `margin` of the query's lowest positive: perhaps an unjudged positive.

    This is TopK-PercPos of NV-Retriever (Moreira et al. 2024), written so that it is also right for negative
    scores. Without a positive there is no measure, and every candidate is refused.
    """
    lowest = np.full(len(facts.query_text), np.inf)
    np.minimum.at(lowest, facts.positive_query, facts.positive_score.astype(np.float64))
    threshold = np.where(np.isfinite(lowest), lowest - (1 - mining.margin) * np.abs(lowest), -np.inf)
    return candidates.dense > threshold[candidates.query]


Rule = Callable[[Candidates, Facts, MiningSettings], np.ndarray]
RULES: Mapping[Reason, Rule] = {
    Reason.KNOWN_POSITIVE: known_positive,
    Reason.TEXT_OF_POSITIVE: text_of_positive,
    Reason.TEXT_OF_QUERY: text_of_query,
    Reason.SKIPPED_RANK: skipped_rank,
    Reason.NEAR_DUPLICATE: near_duplicate,
    Reason.ABOVE_MARGIN: above_margin,
}


def _in_pairs(left: np.ndarray, right: np.ndarray, lefts: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """Whether each pair (left[i], right[i]) is one of the pairs (lefts[j], rights[j]); numbers from 0."""
    base = 1 + max(right.max(initial=0), rights.max(initial=0))
    return np.isin(left.astype(np.int64) * base + right, lefts.astype(np.int64) * base + rights)
