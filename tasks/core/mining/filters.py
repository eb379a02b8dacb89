"""Filters against false negatives.

A candidate that any filter refuses is never a negative. A query with too few candidates left gets fewer negatives.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from tasks.core.base.sections.mining import MiningSettings
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.passage_texts import Texts
from tasks.core.text.shingles import expand, jaccard, mix, near_duplicates, slices

PAIRS_AT_ONCE = 1_000_000  # (candidate, positive) pairs compared in one call


class Reason(StrEnum):
    """Why a candidate was refused, in the order of the filters. The last two apply while negatives are chosen."""

    KNOWN_POSITIVE = "known_positive"
    TEXT_OF_POSITIVE = "text_of_positive"
    TEXT_OF_QUERY = "text_of_query"
    RANK_WINDOW = "rank_window"
    NEAR_DUPLICATE = "near_duplicate"
    ABOVE_MARGIN = "above_margin"
    CROSS_ENCODER = "cross_encoder"
    REPEATED = "repeated"


REASONS = tuple(Reason)
KEPT = -1  # marks a candidate that no filter refused


@dataclass(frozen=True)
class FilterInputs:
    """What filters need in addition to the candidates: texts, and the known positives of all training queries.

    Queries are numbered as in the candidates, passages by snapshot row. A query without a positive gets no negative.
    """

    texts: Texts
    query_class: np.ndarray  # uint64 (queries,): the text class of a passage with the text of the query
    positive_query: np.ndarray  # int64 (n,), ascending: queries …
    positive_passage: np.ndarray  # int64 (n,): … and their known positives
    positive_score: np.ndarray  # float32 (n,): inner products of these pairs
    margin_applies: bool = True

    def of_queries(self, queries: np.ndarray, positives: np.ndarray) -> FilterInputs:
        """Return the inputs for other queries: number i is `queries[i]`, with the known positives in `positives`.

        positives: int64 (2, n): query number, ascending, and row of the positive in these inputs.
        """
        rows = positives[1]
        return replace(
            self,
            query_class=self.query_class[queries],
            positive_query=positives[0],
            positive_passage=self.positive_passage[rows],
            positive_score=self.positive_score[rows],
        )


def apply_filters(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Apply all filters; return int8 (candidates,): KEPT, or the index in REASONS of the first filter that refuses."""
    refusals = np.full(len(candidates), KEPT, np.int8)
    left = np.arange(len(candidates))
    for reason, rule in RULES.items():
        refused = rule(candidates.take(left), inputs, mining)
        refusals[left[refused]] = REASONS.index(reason)
        left = left[~refused]
    return refusals


def known_positive(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse passages that are a judged positive of the query, in any split."""
    return _in_pairs(candidates.query, candidates.passage, inputs.positive_query, inputs.positive_passage)


def text_of_positive(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse passages with the same text as a positive of the query."""
    classes = inputs.texts.classes
    return _in_pairs(
        candidates.query, classes[candidates.passage], inputs.positive_query, classes[inputs.positive_passage]
    )


def text_of_query(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse passages with the same text as the query."""
    same: np.ndarray = inputs.texts.classes[candidates.passage] == inputs.query_class[candidates.query]
    return same


def rank_window(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse ranks up to `skip_top` and after `last_rank`; ranks of passages without a score mean nothing."""
    last = mining.last_rank or np.iinfo(np.int32).max
    outside: np.ndarray = (candidates.rank <= mining.skip_top) | (candidates.rank > last)
    outside &= ~np.isnan(candidates.score)
    return outside


def near_duplicate(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse passages whose five-word shingles have a Jaccard similarity of `near_duplicate` or more to a positive."""
    refused = np.zeros(len(candidates), bool)
    for owner, positive in _pair_with_positives(candidates, inputs):
        near = near_duplicates(inputs.texts.sets, candidates.passage[owner], positive, mining.near_duplicate)
        refused[owner[near]] = True
    return refused


def above_margin(candidates: Candidates, inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Refuse passages that the encoder scores above `margin` × the lowest (or mean) positive of the query.

    They may be unjudged positives. This is TopK-PercPos of NV-Retriever (Moreira et al. 2024), extended to negative
    scores. A query without a positive has no threshold: all its candidates are refused. Given negatives are exempt:
    people judged them. No candidate is refused if the encoder ranks worse than BM25 (`check_margin`).
    """
    if not inputs.margin_applies:
        return np.zeros(len(candidates), bool)
    positive = _positive_scores(inputs, mining)
    threshold = np.where(np.isfinite(positive), positive - (1 - mining.margin) * np.abs(positive), -np.inf)
    above: np.ndarray = (candidates.dense > threshold[candidates.query]) & (candidates.rank > 0)
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


def measure_candidates(
    candidates: Candidates, inputs: FilterInputs, mining: MiningSettings
) -> dict[Reason, np.ndarray]:
    """Return the values that the measuring filters compare with their limits, float32 (candidates,) each.

    near_duplicate: the Jaccard similarity to the nearest positive. above_margin: the dense score relative to the
    score of the positive, 1 + (score - positive) / |positive|; NaN for a positive that scores 0.
    """
    nearest = np.zeros(len(candidates), np.float32)
    for owner, passage in _pair_with_positives(candidates, inputs):
        np.maximum.at(nearest, owner, jaccard(inputs.texts.sets, candidates.passage[owner], passage))
    positive = _positive_scores(inputs, mining)[candidates.query]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(positive == 0, np.nan, 1 + (candidates.dense - positive) / np.abs(positive))
    return {Reason.NEAR_DUPLICATE: nearest, Reason.ABOVE_MARGIN: share.astype(np.float32)}


def _positive_scores(inputs: FilterInputs, mining: MiningSettings) -> np.ndarray:
    """Return the positive score that `margin` applies to, float64 (queries,); infinite without a positive."""
    count = len(inputs.query_class)
    scores = inputs.positive_score.astype(np.float64)
    if mining.margin_over == "mean":
        sizes = np.bincount(inputs.positive_query, minlength=count)
        sums = np.bincount(inputs.positive_query, scores, minlength=count)
        return np.where(sizes > 0, sums / np.maximum(sizes, 1), np.inf)
    lowest = np.full(count, np.inf)
    np.minimum.at(lowest, inputs.positive_query, scores)
    return lowest


def _pair_with_positives(candidates: Candidates, inputs: FilterInputs) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pair each candidate with every positive of its query; yield batches of candidate numbers and positive rows."""
    low = np.searchsorted(inputs.positive_query, candidates.query, "left")
    counts = np.searchsorted(inputs.positive_query, candidates.query, "right") - low
    for batch in slices(counts, PAIRS_AT_ONCE):
        positions, owner = expand(low[batch], counts[batch])
        yield owner + batch.start, inputs.positive_passage[positions]


def _in_pairs(left: np.ndarray, right: np.ndarray, lefts: np.ndarray, rights: np.ndarray) -> np.ndarray:
    """Return whether each pair (left[i], right[i]) is among the pairs (lefts[j], rights[j]); compare 64-bit keys."""
    return np.isin(pair_keys(left, right), pair_keys(lefts, rights))


def pair_keys(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Hash each pair of numbers to a uint64 key; two unequal pairs collide with probability 2^-64."""
    return mix(mix(left.astype(np.uint64) + np.uint64(1)) + right.astype(np.uint64))
