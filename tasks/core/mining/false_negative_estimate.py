"""How often a false negative gets through, estimated on positives that are known: each is hidden and looked for."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest

from tasks.core.base.receipts import Hidden
from tasks.core.base.settings import MiningSettings
from tasks.core.mining.candidates import Candidates
from tasks.core.mining.choice import ScorePairs
from tasks.core.mining.filters import KEPT, FilterInputs, apply_filters
from tasks.core.text.shingles import expand

MOST = 2_000  # positives that are hidden


def draw_hidden(facts: FilterInputs, seed: int) -> np.ndarray:
    """Rows of `facts`' positives to hide, ascending int64: 2,000 drawn by `seed`, of queries with two or more."""
    sizes = np.bincount(facts.positive_query, minlength=len(facts.query_class))
    several = np.flatnonzero(sizes[facts.positive_query] > 1)
    count = min(MOST, len(several))
    return np.sort(np.random.default_rng(seed).choice(several, count, replace=False))


def count_hidden_let_through(
    candidates: Candidates, facts: FilterInputs, hidden: np.ndarray, mining: MiningSettings, ask: ScorePairs | None
) -> tuple[int, int]:
    """Hide each positive in `hidden` (rows of `facts`' positives) alone, and ask the rules about it as a candidate.

    Returns how many are among the candidates, and how many of them no rule refuses.
    """
    queries, passages = facts.positive_query[hidden], facts.positive_passage[hidden]
    low = np.searchsorted(facts.positive_query, queries, "left")
    at, number = expand(low, np.searchsorted(facts.positive_query, queries, "right") - low)
    others = at != hidden[number]
    alone = facts.of_queries(queries, np.stack([number[others], at[others]]))
    ours = np.flatnonzero(np.isin(candidates.query, queries))
    order = ours[np.lexsort((candidates.passage[ours], candidates.query[ours]))]
    base = 1 + max(candidates.passage[order].max(initial=0), passages.max(initial=0))
    keys, wanted = candidates.query[order] * base + candidates.passage[order], queries * base + passages
    first = np.searchsorted(keys, wanted, "left")
    rows, number = expand(first, np.searchsorted(keys, wanted, "right") - first)
    some = candidates.take(order[rows])
    tried = Candidates(number, some.passage, some.source, some.rank, some.score, some.dense)
    kept = np.flatnonzero(apply_filters(tried, alone, mining) == KEPT)
    if ask is not None:
        kept = kept[ask(queries[number[kept]], some.passage[kept]) <= mining.cross_encoder.most]
    return len(np.unique(number)), len(np.unique(number[kept]))


def summarize_hidden(hidden: int, found: int, let_through: int) -> Hidden | None:
    """Sum up the counts, with Wilson's 95 % interval of the share let through; None when nothing was hidden."""
    if hidden == 0:
        return None
    interval = binomtest(let_through, hidden).proportion_ci(0.95, method="wilson")
    low, high = round(float(interval.low), 4), round(float(interval.high), 4)
    return Hidden(hidden=hidden, found=found, let_through=let_through, low=low, high=high)
