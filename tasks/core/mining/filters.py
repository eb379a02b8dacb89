"""The rules that keep false negatives out.

A candidate that any rule refuses is never a negative: a query left with too few gets fewer, and nothing is put in
their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from tasks.core.base.settings import MiningSettings
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.passage_texts import Texts
from tasks.core.text.shingles import expand, jaccard, mix, near_duplicates, slices

PAIRS_AT_ONCE = 1_000_000  # (candidate, positive) pairs looked at together


class Reason(StrEnum):
    """Why a candidate was refused, in the order the rules are asked. The last two are asked while choosing."""

    KNOWN_POSITIVE = "known_positive"
    TEXT_OF_POSITIVE = "text_of_positive"
    TEXT_OF_QUERY = "text_of_query"
    RANK_WINDOW = "rank_window"
    NEAR_DUPLICATE = "near_duplicate"
    ABOVE_MARGIN = "above_margin"
    CROSS_ENCODER = "cross_encoder"
    REPEATED = "repeated"


REASONS = tuple(Reason)
KEPT = -1  # the verdict on a candidate that no rule refuses


@dataclass(frozen=True)
class FilterInputs:
    """What the rules know beside the candidates. Queries are numbered as the candidates' are, passages by snapshot row.

    A query may have no positive; then it has no negative either.
    """

    texts: Texts
    query_class: np.ndarray  # uint64 (queries,): the text class of a passage that says just the query
    positive_query: np.ndarray  # int64 (n,), ascending: queries …
    positive_passage: np.ndarray  # int64 (n,): … and their known positives
    positive_score: np.ndarray  # float32 (n,): inner products of these pairs

    def of_queries(self, queries: np.ndarray, positives: np.ndarray) -> FilterInputs:
        """The same about other queries: number i is `queries[i]`, its known positives those that `positives` give.

        positives: int64 (2, n): query number, ascending, and a row of these facts' positives.
        """
        at = positives[1]
        return FilterInputs(
            self.texts, self.query_class[queries], positives[0], self.positive_passage[at], self.positive_score[at]
        )


def apply_filters(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """The verdict on each candidate, int8: KEPT, or the number in REASONS of the first rule that refuses it."""
    verdict = np.full(len(candidates), KEPT, np.int8)
    standing = np.arange(len(candidates))
    for reason, rule in RULES.items():
        refused = rule(candidates.take(standing), facts, mining)
        verdict[standing[refused]] = REASONS.index(reason)
        standing = standing[~refused]
    return verdict


def known_positive(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """It is a judged positive of the query, in any split."""
    return _in_pairs(candidates.query, candidates.passage, facts.positive_query, facts.positive_passage)


def text_of_positive(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """It has the same text as a positive of the query."""
    classes = facts.texts.classes
    return _in_pairs(
        candidates.query, classes[candidates.passage], facts.positive_query, classes[facts.positive_passage]
    )


def text_of_query(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """It says just what the query says."""
    same: np.ndarray = facts.texts.classes[candidates.passage] == facts.query_class[candidates.query]
    return same


def rank_window(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """It stands among the first `skip_top` of its run or after `last_rank`; a random draw has no rank to speak of."""
    last = mining.last_rank or np.iinfo(np.int32).max
    outside: np.ndarray = (candidates.rank <= mining.skip_top) | (candidates.rank > last)
    outside &= ~np.isnan(candidates.score)
    return outside


def near_duplicate(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Its five-word shingles have a Jaccard similarity of `near_duplicate` or more with those of a positive."""
    refused = np.zeros(len(candidates), bool)
    for owner, positive in _beside_positives(candidates, facts):
        near = near_duplicates(facts.texts.sets, candidates.passage[owner], positive, mining.near_duplicate)
        refused[owner[near]] = True
    return refused


def above_margin(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """The encoder scores it above `margin` of the query's lowest (or mean) positive: perhaps an unjudged positive.

    This is TopK-PercPos of NV-Retriever (Moreira et al. 2024), written so that it is also right for negative
    scores. Without a positive there is no measure, and every candidate is refused.
    """
    positive = _positive_scores(facts, mining)
    threshold = np.where(np.isfinite(positive), positive - (1 - mining.margin) * np.abs(positive), -np.inf)
    above: np.ndarray = candidates.dense > threshold[candidates.query]
    return above


Rule = Callable[[Candidates, FilterInputs, MiningSettings], np.ndarray]
RULES: Mapping[Reason, Rule] = {
    Reason.KNOWN_POSITIVE: known_positive,
    Reason.TEXT_OF_POSITIVE: text_of_positive,
    Reason.TEXT_OF_QUERY: text_of_query,
    Reason.RANK_WINDOW: rank_window,
    Reason.NEAR_DUPLICATE: near_duplicate,
    Reason.ABOVE_MARGIN: above_margin,
}


def measure_candidates(candidates: Candidates, facts: FilterInputs, mining: MiningSettings) -> dict[Reason, np.ndarray]:
    """What the measuring rules saw of candidates, float32 (n,) each: a candidate was let through below the limits.

    near_duplicate: the Jaccard similarity to the nearest positive. above_margin: the dense score as a share of the
    positive's, 1 + (score - positive) / |positive|; NaN beside a positive that scores 0.
    """
    nearest = np.zeros(len(candidates), np.float32)
    for owner, passage in _beside_positives(candidates, facts):
        np.maximum.at(nearest, owner, jaccard(facts.texts.sets, candidates.passage[owner], passage))
    positive = _positive_scores(facts, mining)[candidates.query]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(positive == 0, np.nan, 1 + (candidates.dense - positive) / np.abs(positive))
    return {Reason.NEAR_DUPLICATE: nearest, Reason.ABOVE_MARGIN: share.astype(np.float32)}


def _positive_scores(facts: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """What the margin is taken of for each query, float64; infinite for a query without a positive."""
    count = len(facts.query_class)
    scores = facts.positive_score.astype(np.float64)
    if mining.margin_over == "mean":
        sizes = np.bincount(facts.positive_query, minlength=count)
        sums = np.bincount(facts.positive_query, scores, minlength=count)
        return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    lowest = np.full(count, np.inf)
    np.minimum.at(lowest, facts.positive_query, scores)
    return lowest


def _beside_positives(candidates: Candidates, facts: FilterInputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Each candidate beside every positive of its query, in pieces: candidate numbers, and the positives' rows."""
    low = np.searchsorted(facts.positive_query, candidates.query, "left")
    counts = np.searchsorted(facts.positive_query, candidates.query, "right") - low
    for some in slices(counts, PAIRS_AT_ONCE):
        at, owner = expand(low[some], counts[some])
        yield owner + some.start, facts.positive_passage[at]


def _in_pairs(left: np.ndarray, right: np.ndarray, lefts: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """Whether each pair (left[i], right[i]) is one of the pairs (lefts[j], rights[j]); compared by 64-bit numbers."""
    return np.isin(pair_keys(left, right), pair_keys(lefts, rights))


def pair_keys(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A number uint64 for each pair of numbers; unequal pairs share one with odds of 2^-64."""
    return mix(mix(left.astype(np.uint64) + np.uint64(1)) + right.astype(np.uint64))
