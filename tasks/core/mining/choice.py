"""Choose negatives among the candidates that pass all filters: the hardest first, each source by its share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.core.mining.candidates import Candidates
from tasks.core.mining.filters import KEPT, REASONS, Reason, pair_keys
from tasks.core.mining.passage_texts import Texts

# rows of queries and of passages, int64 (n,) each → probabilities float32 (n,)
ScorePairs = Callable[[np.ndarray, np.ndarray], np.ndarray]


def choose(
    candidates: Candidates, refusals: np.ndarray, texts: Texts, shares: np.ndarray, per_query: int
) -> np.ndarray:
    """Choose up to `per_query` negatives for each query.

    Each source offers the candidates that passed the filters, by rank. The n-th of a source has its turn at
    (n - 1/2) / share, which divides the places as Webster's method divides seats; the first source wins ties. When a
    source has no candidates left, the other sources get its places. Of equal texts only the first to have its turn is
    offered.

    Args:
        candidates: of one batch of queries, ordered by source, query, and rank.
        refusals: int8 (candidates,), KEPT or an index into REASONS. Candidates that repeat a text are marked REPEATED
            in place.
        texts: text classes of all passages.
        shares: float64 (sources,), all above 0. A source with an infinite share comes before all others.
        per_query: negatives for each query.

    Returns:
        The numbers of the chosen candidates, int64, by query and in the order chosen.
    """
    passed = np.flatnonzero(refusals == KEPT)
    passed = passed[_order(candidates, passed, shares)]
    keys = pair_keys(candidates.query[passed], texts.classes[candidates.passage[passed]])
    first = np.zeros(len(passed), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    offered = passed[first]
    if len(shares) > 1 and not first.all():
        offered = np.sort(offered)
        offered = offered[_order(candidates, offered, shares)]
    refusals[passed[~first]] = REASONS.index(Reason.REPEATED)
    chosen: np.ndarray = offered[_position(candidates.query[offered]) < per_query]
    return chosen


def choose_with_cross_encoder(
    candidates: Candidates,
    refusals: np.ndarray,
    texts: Texts,
    shares: np.ndarray,
    per_query: int,
    score_pairs: ScorePairs,
    max_probability: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Choose as `choose` does, and replace candidates that the cross-encoder finds relevant by the next in turn.

    Only candidates whose turn comes are scored. Those with a probability above `max_probability` are marked
    CROSS_ENCODER in `refusals`, in place. Given negatives stay: people judged them.

    Returns:
        The numbers of the chosen candidates, int64, and the probabilities, float32 (candidates,), NaN if not scored.
    """
    probability = np.full(len(candidates), np.nan, np.float32)
    while True:
        chosen = choose(candidates, refusals, texts, shares, per_query)
        new = chosen[np.isnan(probability[chosen])]
        if len(new) == 0:
            return chosen, probability
        probability[new] = score_pairs(candidates.query[new], candidates.passage[new])
        refusals[new[(probability[new] > max_probability) & (candidates.rank[new] > 0)]] = REASONS.index(
            Reason.CROSS_ENCODER
        )


def _order(candidates: Candidates, numbers: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the order that sorts candidates `numbers` (given by source, query, and rank) by query and turn."""
    if len(shares) == 1:
        return np.arange(len(numbers))
    query, source = candidates.query[numbers], candidates.source[numbers]
    turn = (_position(query * 128 + source) + 0.5) / shares[source]
    return np.lexsort((source, turn, query))


def _position(groups: np.ndarray) -> np.ndarray:
    """Return the position of each item within its group, from 0; items of a group must be adjacent."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
