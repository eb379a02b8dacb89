"""Micro-batches of few distinct shapes, nearly without padding."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

GRAIN = 16  # tokens: other widths cost attention a tenth more a token, as the kernels work in blocks of 16


def micro_batches(lengths: np.ndarray, longest: int, token_budget: int) -> Iterator[tuple[np.ndarray, int]]:
    """Divide texts of these lengths (integers (n,), in tokens) into batches: (rows int64, width in tokens).

    Rows go by falling length. A width is a multiple of GRAIN, but at most `longest`. A batch has as many rows as
    fit into `token_budget` tokens, rounded down to a power of two, at least one; what is left of a width goes by
    powers of four. Every new shape costs a backend some 10 ms of compiling, once: so there are few, and they come
    back in every window.
    """
    widths = np.minimum(-(-np.maximum(lengths, 1) // GRAIN) * GRAIN, longest)
    order = np.argsort(-lengths, kind="stable")
    edges = np.flatnonzero(np.diff(widths[order])) + 1
    for group in np.split(order, edges):
        while len(group):
            width = int(widths[group[0]])
            full = _power_of_two(token_budget // width)
            rows = full if full <= len(group) else _power_of_four(len(group))
            yield group[:rows], width
            group = group[rows:]


def _power_of_two(most: int) -> int:
    """The largest power of two that is not above `most`; 1 when there is none."""
    return 1 << max(0, most.bit_length() - 1)


def _power_of_four(most: int) -> int:
    """The largest power of four that is not above `most`, which is at least 1."""
    return 1 << (most.bit_length() - 1) // 2 * 2
