"""Estimate how often filters miss a false negative: hide known positives and count those that pass as candidates."""

from __future__ import annotations

import numpy as np

from tasks.core.base.mining_checks import Hidden
from tasks.core.base.sections.mining import MiningSettings
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.choice import ScorePairs
from tasks.core.mining.filters import KEPT, FilterInputs, apply_filters
from tasks.core.text.shingles import expand

MAX_HIDDEN = 2_000  # positives


def draw_hidden(inputs: FilterInputs, seed: int) -> np.ndarray:
    """Draw up to 2,000 positives of queries with at least two; return their rows in `inputs`, int64, ascending."""
    sizes = np.bincount(inputs.positive_query, minlength=len(inputs.query_class))
    several = np.flatnonzero(sizes[inputs.positive_query] > 1)
    count = min(MAX_HIDDEN, len(several))
    return np.sort(np.random.default_rng(seed).choice(several, count, replace=False))


def count_hidden_let_through(
    candidates: Candidates, inputs: FilterInputs, hidden: np.ndarray, mining: MiningSettings, scorer: ScorePairs | None
) -> tuple[int, int]:
    """Hide each positive in `hidden` (rows of positives in `inputs`), one at a time, and filter it as a candidate.

    Returns:
        How many hidden positives are among the candidates, and how many of these pass all filters.
    """
    queries, passages = inputs.positive_query[hidden], inputs.positive_passage[hidden]
    low = np.searchsorted(inputs.positive_query, queries, "left")
    positions, number = expand(low, np.searchsorted(inputs.positive_query, queries, "right") - low)
    remaining = positions != hidden[number]
    hidden_inputs = inputs.of_queries(queries, np.stack([number[remaining], positions[remaining]]))
    of_queries = np.flatnonzero(np.isin(candidates.query, queries))
    order = of_queries[np.lexsort((candidates.passage[of_queries], candidates.query[of_queries]))]
    base = 1 + max(candidates.passage[order].max(initial=0), passages.max(initial=0))
    keys, wanted = candidates.query[order] * base + candidates.passage[order], queries * base + passages
    first = np.searchsorted(keys, wanted, "left")
    rows, number = expand(first, np.searchsorted(keys, wanted, "right") - first)
    matches = candidates.take(order[rows])
    hidden_candidates = Candidates(number, matches.passage, matches.source, matches.rank, matches.score, matches.dense)
    kept = np.flatnonzero(apply_filters(hidden_candidates, hidden_inputs, mining) == KEPT)
    if scorer is not None:
        kept = kept[scorer(queries[number[kept]], matches.passage[kept]) <= mining.cross_encoder.most]
    return len(np.unique(number)), len(np.unique(number[kept]))


def summarize_hidden(hidden: int, matched: int, let_through: int) -> Hidden | None:
    """Return the counts and the 95 % Wilson interval of the share let through; None if nothing was hidden."""
    if hidden == 0:
        return None
    from scipy.stats import binomtest  # slow to import: only nights that mine need it

    interval = binomtest(let_through, hidden).proportion_ci(0.95, method="wilson")
    low, high = round(float(interval.low), 4), round(float(interval.high), 4)
    return Hidden(hidden=hidden, found=matched, let_through=let_through, low=low, high=high)
