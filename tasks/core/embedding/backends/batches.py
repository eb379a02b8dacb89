"""Micro-batches of few distinct shapes, nearly without padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

GRAIN = 8  # tokens


def micro_batches(lengths: np.ndarray, longest: int, token_budget: int) -> Iterator[tuple[np.ndarray, int]]:
    """Divide texts of these lengths (integers (n,), in tokens) into batches: (rows int64, width in tokens).

    Rows go by falling length. A width is a multiple of GRAIN, but at most `longest`; the rows of a batch are a power
    of two, with rows × width within `token_budget`, or one row. Every new shape costs a backend some 10 ms of
    compiling, once: so there are few, and they come back in every window.
    """
    widths = np.minimum(-(-np.maximum(lengths, 1) // GRAIN) * GRAIN, longest)
    order = np.argsort(-lengths, kind="stable")
    edges = np.flatnonzero(np.diff(widths[order])) + 1
    for group in np.split(order, edges):
        while len(group):
            width = int(widths[group[0]])
            rows = _power_of_two(min(token_budget // width, len(group)))
            yield group[:rows], width
            group = group[rows:]


def _power_of_two(most: int) -> int:
    """The largest power of two that is not above `most`; 1 when there is none."""
    return 1 << max(0, most.bit_length() - 1)
