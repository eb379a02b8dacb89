"""Measures of agreement between two rankings of the same query. They need no relevance judgments."""

from __future__ import annotations

from collections.abc import Sequence

PERSISTENCE = 0.9  # RBO's p: the first ten ranks have almost 90 % of the weight


def overlap(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the shared passages as a share of the longer ranking; 1 if both are empty."""
    longest = max(len(left), len(right))
    return len(set(left) & set(right)) / longest if longest else 1.0


def rank_biased(left: Sequence[str], right: Sequence[str], p: float = PERSISTENCE) -> float:
    """Return the rank-biased overlap, extrapolated beyond the last rank (Webber, Moffat, and Zobel, 2010).

    1 for equal rankings, 0 for rankings without common passages. The first ranks weigh most. If the rankings have
    different lengths, the longer one is cut.
    """
    depth = min(len(left), len(right))
    if depth == 0:
        return float(not left and not right)
    shared, total = 0, 0.0
    seen_left, seen_right = set[str](), set[str]()
    for d, (left_id, right_id) in enumerate(zip(left[:depth], right[:depth], strict=True), 1):
        seen_left.add(left_id)
        seen_right.add(right_id)
        shared = len(seen_left & seen_right)
        total += shared / d * p**d
    return shared / depth * p**depth + (1 - p) / p * total


def shift(left: Sequence[str], right: Sequence[str]) -> float:
    """Return the mean rank change of all passages of both; a missing passage counts as just after the last rank."""
    ranks = [{passage: rank for rank, passage in enumerate(ranking, 1)} for ranking in (left, right)]
    behind = max(len(left), len(right)) + 1
    passages = ranks[0].keys() | ranks[1].keys()
    moves = [abs(ranks[0].get(passage, behind) - ranks[1].get(passage, behind)) for passage in passages]
    return sum(moves) / len(moves) if moves else 0.0
