"""Thresholds of a single window, from the level of normal windows and their deviation around it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

PRIOR_LEVEL, PRIOR_WOBBLE = 2, 10  # number of windows that the starting value and the assumed wobble count as


class Sampled(NamedTuple):
    """A value of a window, measured on this number of its queries."""

    queries: int
    value: float


def level_of(start: float, windows: Sequence[Sampled]) -> float:
    """Return the level of normal windows; the starting value counts as PRIOR_LEVEL windows."""
    return (PRIOR_LEVEL * start + sum(window.value for window in windows)) / (PRIOR_LEVEL + len(windows))


def deviation_of(
    level: float, windows: Sequence[Sampled], *, queries: int, start_queries: int, variance: float, wobble: float
) -> float:
    """Return the standard deviation of a normal window of `queries` queries around the level.

    The variance by chance at the size of each window is subtracted from the variance between windows and added again
    for the new window. `wobble` counts as PRIOR_WOBBLE windows with this deviation. The uncertainty of the level comes
    from the starting value and the windows behind it.

    Args:
        level: of normal windows.
        windows: the normal windows so far.
        queries: in the new window.
        start_queries: number of queries behind the starting value.
        variance: of a single query.
        wobble: assumed deviation between windows, until it can be measured.
    """
    total = PRIOR_LEVEL + len(windows)
    beyond = sum((window.value - level) ** 2 - variance / window.queries for window in windows)
    between = max(0.0, (PRIOR_WOBBLE * wobble**2 + beyond) / (PRIOR_WOBBLE + len(windows)))
    level_variance = (PRIOR_LEVEL / total) ** 2 * variance / max(1, start_queries)
    level_variance += sum(between + variance / window.queries for window in windows) / total**2
    return math.sqrt(between + variance / queries + level_variance)
