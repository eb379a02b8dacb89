"""Build micro-batches with few distinct shapes and little padding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

GRAIN = 16  # tokens: attention kernels work in blocks of 16; other widths cost 10 % more per token


def padded_batches(lengths: Sequence[int], token_budget: int) -> list[list[int]]:
    """Divide texts into batches by length, shortest first, of at most `token_budget` tokens with padding."""
    batches: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batches and (len(batches[-1]) + 1) * lengths[row] <= token_budget:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def micro_batches(lengths: np.ndarray, longest: int, token_budget: int) -> Iterator[tuple[np.ndarray, int]]:
    """Divide texts into batches by length, longest first. Yields (rows int64, width in tokens).

    lengths: integers (n,), in tokens.

    A width is a multiple of GRAIN, but at most `longest`. A batch has as many rows as fit into `token_budget` tokens,
    rounded down to a power of two, but at least one. The remaining rows of a width are split by powers of four.
    A backend needs about 10 ms to compile each new shape, so there are few shapes, and all windows use the same ones.
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


def _power_of_two(limit: int) -> int:
    """Return the largest power of two up to `limit`; 1 if there is none."""
    return 1 << max(0, limit.bit_length() - 1)


def _power_of_four(limit: int) -> int:
    """Return the largest power of four up to `limit`, which is at least 1."""
    return 1 << (limit.bit_length() - 1) // 2 * 2
