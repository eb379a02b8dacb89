"""Which of the candidates that no rule refuses become negatives: sources by their shares, the hardest first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tasks.core.mining.candidates import Candidates
from tasks.core.mining.filters import KEPT, REASONS, Reason, pair_keys
from tasks.core.mining.passage_texts import Texts

ScorePairs = Callable[
    [np.ndarray, np.ndarray], np.ndarray
]  # rows of queries and of passages → probabilities float32 (n,)


def choose(candidates: Candidates, verdict: np.ndarray, texts: Texts, shares: np.ndarray, per_query: int) -> np.ndarray:
    """Numbers of the candidates to keep, by query and in the order chosen.

    Each source offers its survivors by rank. The n-th of a source has its turn at (n - 1/2) / share, which divides
    the places as Webster's method divides seats; of equal turns the source that comes first. A source that runs dry
    leaves its places to the others. Of equal texts only the one whose turn comes first is offered.

    shares: float64 (sources,), all above 0. Those that repeat a text get that verdict, in place.
    """
    left = np.flatnonzero(verdict == KEPT)
    left = left[_order(candidates, left, shares)]
    keys = pair_keys(candidates.query[left], texts.classes[candidates.passage[left]])
    first = np.zeros(len(left), bool)
    first[np.unique(keys, return_index=True)[1]] = True
    offered = left[first]
    if len(shares) > 1 and not first.all():
        offered = np.sort(offered)
        offered = offered[_order(candidates, offered, shares)]
    verdict[left[~first]] = REASONS.index(Reason.REPEATED)
    placed: np.ndarray = offered[_place(candidates.query[offered]) < per_query]
    return placed


def choose_with_cross_encoder(
    candidates: Candidates,
    verdict: np.ndarray,
    texts: Texts,
    shares: np.ndarray,
    per_query: int,
    ask: ScorePairs,
    most: float,
) -> tuple[np.ndarray, np.ndarray]:
    """`choose`, but what `ask` gives a probability above `most` is refused, in place, and the next takes its turn.

    Only candidates whose turn comes are asked about. Returns the numbers to keep and the probabilities float32
    (candidates,), NaN for those never asked about.
    """
    probability = np.full(len(candidates), np.nan, np.float32)
    while True:
        chosen = choose(candidates, verdict, texts, shares, per_query)
        new = chosen[np.isnan(probability[chosen])]
        if len(new) == 0:
            return chosen, probability
        probability[new] = ask(candidates.query[new], candidates.passage[new])
        verdict[new[probability[new] > most]] = REASONS.index(Reason.CROSS_ENCODER)


def _order(candidates: Candidates, numbers: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """How to sort candidates `numbers`, which come by source, query and rank, by query and turn."""
    if len(shares) == 1:
        return np.arange(len(numbers))
    query, source = candidates.query[numbers], candidates.source[numbers]
    turn = (_place(query * 128 + source) + 0.5) / shares[source]
    return np.lexsort((source, turn, query))


def _place(groups: np.ndarray) -> np.ndarray:
    """The place of each item among those of its group, from 0; equal groups stand side by side."""
    starts = np.flatnonzero(np.diff(groups, prepend=groups[:1] - 1))
    return np.arange(len(groups)) - np.repeat(starts, np.diff(starts, append=len(groups)))
