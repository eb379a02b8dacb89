"""How alike two rankings of the same query are, without anyone judging which is better."""

from __future__ import annotations

from collections.abc import Sequence

PERSISTENCE = 0.9  # of the reader: nearly nine tenths of the weight lies on the first ten ranks


def overlap(left: Sequence[str], right: Sequence[str]) -> float:
    """The share of passages in common, of the longer ranking; 1 where both are empty."""
    longest = max(len(left), len(right))
    return len(set(left) & set(right)) / longest if longest else 1.0


def rank_biased(left: Sequence[str], right: Sequence[str], p: float = PERSISTENCE) -> float:
    """Rank-biased overlap, extrapolated as if the agreement at the end went on (Webber, Moffat and Zobel, 2010).

    1 for equal rankings, 0 for rankings with nothing in common; the first ranks weigh most. Of rankings of different
    lengths the first ranks of both are compared.
    """
    depth = min(len(left), len(right))
    if depth == 0:
        return float(not left and not right)
    shared, total = 0, 0.0
    seen_left, seen_right = set[str](), set[str]()
    for d, (one, other) in enumerate(zip(left[:depth], right[:depth], strict=True), 1):
        seen_left.add(one)
        seen_right.add(other)
        shared = len(seen_left & seen_right)
        total += shared / d * p**d
    return shared / depth * p**depth + (1 - p) / p * total


def shift(left: Sequence[str], right: Sequence[str]) -> float:
    """The mean number of ranks by which a passage of either moved; one that is gone stands just behind the last."""
    ranks = [{one: rank for rank, one in enumerate(ranking, 1)} for ranking in (left, right)]
    behind = max(len(left), len(right)) + 1
    moves = [abs(ranks[0].get(one, behind) - ranks[1].get(one, behind)) for one in ranks[0].keys() | ranks[1].keys()]
    return sum(moves) / len(moves) if moves else 0.0
