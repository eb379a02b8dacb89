"""Tables of the benchmark of growth: the cost of each step by size, and its ratio to linear growth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
GIB, MB = 2**30, 10**6


def format_tables(rows: Sequence[Row]) -> str:
    """Return Markdown: steps, peaks of memory, and totals of each night."""
    sizes = sorted({int(row["size"]) for row in rows})
    cells = {(row["night"], stage, row["size"]): cost for row in rows for stage, cost in row["stages"].items()}
    steps = list(dict.fromkeys((night, stage) for night, stage, _ in cells))
    heading = "".join(f" s at {size:,} | CPU s | MB read | MB written |" for size in sizes)
    lines = [f"| night | step |{heading} growth | CPU growth |", "|---|---|" + "---:|" * (4 * len(sizes) + 2)]
    for night, stage in steps:
        costs = [cells.get((night, stage, size)) for size in sizes]
        growth = [_growth(sizes, [cost and cost[unit] for cost in costs]) for unit in ("seconds", "cpu")]
        lines.append(
            f"| {night} | {stage} |" + "".join(_cost(cost) for cost in costs) + f" {growth[0]} | {growth[1]} |"
        )
    return "\n".join([*lines, "", *_memory(rows, sizes), "", *_totals(rows, sizes)])


def _cost(cost: Row | None) -> str:
    if cost is None:
        return " | | | |"
    return f" {cost['seconds']:.1f} | {cost['cpu']:.1f} | {cost['read'] / MB:,.0f} | {cost['written'] / MB:,.0f} |"


def _growth(sizes: Sequence[int], values: Sequence[float | None]) -> str:
    """Return, for each pair of neighboring sizes, the growth of the value over that of the size: 1 is linear."""
    parts = []
    for place in range(1, len(sizes)):
        before, after = values[place - 1], values[place]
        if before and after and min(before, after) >= 0.05:
            ratio = after / before / (sizes[place] / sizes[place - 1])
            exponent = math.log(after / before) / math.log(sizes[place] / sizes[place - 1])
            parts.append(f"{ratio:.2f} (n^{exponent:.2f})")
        else:
            parts.append("–")
    return ", ".join(parts)


def _memory(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[str]:
    """Yield a table of the peak memory by kind of process and step, without and with mapped files."""
    yield (
        "| night | step | process |" + "".join(f" MiB at {size:,} | with mapped files |" for size in sizes) + " ratio |"
    )
    yield "|---|---|---|" + "---:|" * (2 * len(sizes) + 1)
    peaks = {
        (row["night"], stage, kind, row["size"]): (memory, cost["resident"][kind])
        for row in rows
        for stage, cost in row["stages"].items()
        for kind, memory in cost["memory"].items()
    }
    for night, stage, kind in dict.fromkeys(key[:3] for key in peaks):
        values = [peaks.get((night, stage, kind, size)) for size in sizes]
        if max(value[0] for value in values if value) < 100:
            continue
        cells = "".join(f" {value[0]:,.0f} | {value[1]:,.0f} |" if value else " | |" for value in values)
        last = [value for value in values if value][-2:]
        ratio = f"{last[1][0] / max(1.0, last[0][0]):.2f}" if len(last) == 2 else ""
        yield f"| {night} | {stage} | {kind} |{cells} {ratio} |"


def _totals(rows: Sequence[Row], sizes: Sequence[int]) -> Iterator[str]:
    yield "| night | passages | seconds | CPU s | Milvus CPU s | share of first, CPU | home, GiB | outcome | index |"
    yield "|---|" + "---:|" * 6 + "---|---|"
    for size in sizes:
        nights = [row for row in rows if row["size"] == size]
        first = next((_sum(row, "cpu") for row in nights if row["night"] == "first"), 0.0)
        for row in nights:
            share = f"{100 * _sum(row, 'cpu') / first:.1f} %" if first else ""
            yield (
                f"| {row['night']} | {size:,} | {_sum(row, 'seconds'):.0f} | {_sum(row, 'cpu'):.0f} "
                f"| {_sum(row, 'milvus_cpu'):.0f} | {share} | {row['disk'] / GIB:.2f} | {row['outcome']} "
                f"| {row['index']} |"
            )


def _sum(row: Row, unit: str) -> float:
    return sum(float(cost[unit]) for cost in row["stages"].values())
