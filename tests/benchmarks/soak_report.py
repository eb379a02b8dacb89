"""The table, the figure, and the verdict of the soak."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]
COLUMNS = ("night", "fault", "state", "release", "passages", "nDCG@10", "home MB", "Prefect MB", "Milvus MB", "peak GB")
RECOVERY = 30  # seconds that a reader may need after Milvus is back
STEADY = 1.25  # growth of the disk between the second and the last third, at most; the collection grows as well
SHOWN = 160  # characters of a message


def format_table(rows: Sequence[Row]) -> str:
    """Format a Markdown table with a line for each night."""
    return "\n".join(
        [f"| {' | '.join((*COLUMNS, 'message'))} |", "|---" * (len(COLUMNS) + 1) + "|", *map(format_row, rows)]
    )


def format_row(row: Row) -> str:
    """Format the line of a night."""
    message = " / ".join(" ".join(text.split())[:SHOWN] for text in row["messages"])
    cells = [row["night"], row["fault"], " / ".join(row["states"]), row["release"], row["passages"]]
    cells += [f"{row['ndcg']:.3f}", *(row[name] for name in ("home", "prefect", "milvus")), f"{row['peak'] / 1000:.2f}"]
    return f"| {' | '.join(map(str, cells))} | {message.replace('|', '/')} |"


def verdict(
    rows: Sequence[Row], searches: int, failures: Sequence[Row], outages: Sequence[Sequence[float]]
) -> tuple[str, bool]:
    """Judge the soak; return the text, and whether every point is met."""
    during = [
        failure for failure in failures if any(begin <= failure["at"] <= end + RECOVERY for begin, end in outages)
    ]
    failed = [failure["error"] for failure in failures if failure not in during]
    wrong = [text for row in rows for text in row["wrong"]]
    mixed = [text for row in rows for text in row["mixed"]]
    unhandled = [problem for number, row in enumerate(rows) for problem in _problems(row, rows[number + 1 :])]
    faults = [row for row in rows if row["fault"]]
    points = [
        (f"{len(faults)} faults in {len(rows)} nights, each handled without a manual action", unhandled),
        (f"{searches:,} searches, none failed while Milvus ran ({len(during)} while it was gone)", failed),
        (f"{sum(row['checked'] for row in rows):,} different answers, none wrong", wrong),
        ("no answer mixes releases", mixed),
        (f"disk in a steady state: {_disk(rows)}", [] if _is_steady(rows) else ["it still grows"]),
    ]
    lines = []
    for text, problems in points:
        lines.append(f"{'FAILED' if problems else 'ok'}: {text}")
        lines += [f"    {problem[:400]}" for problem in problems[:10]]
    return "\n".join(lines), not any(problems for _, problems in points)


def _problems(row: Row, later: Sequence[Row]) -> list[str]:
    """Return what a night did not handle."""
    at = f"night {row['night']} ({row['fault'] or 'no fault'})"
    problems = []
    if row["fault"] and not row["struck"]:
        problems.append(f"{at}: the fault did not strike")
    if not set(row["states"]) <= set(row["expected"]):
        problems.append(f"{at}: ended as {row['states']}, expected {row['expected']}: {row['messages']}")
    if not set(row["states"]) <= {"Promoted", "Skipped"}:
        if len(row["alerts"]) != 1:
            problems.append(f"{at}: {len(row['alerts'])} alerts instead of one: {row['alerts']}")
        if row["next_step"] and not any(re.search(row["next_step"], alert) for alert in row["alerts"]):
            problems.append(f"{at}: no alert has the next step ({row['next_step']}): {row['alerts']}")
        following = next((night for night in later if not night["fault"]), None)
        if following is not None and not set(following["states"]) <= {"Promoted", "Skipped", "Rejected"}:
            problems.append(f"{at}: not healed by night {following['night']}: {following['states']}")
    return problems


def _disk(rows: Sequence[Row]) -> str:
    middle, last = _thirds(rows)
    return f"at most {middle:.0f} MB in the second third of the nights, {last:.0f} MB in the last"


def _is_steady(rows: Sequence[Row]) -> bool:
    middle, last = _thirds(rows)
    return last <= STEADY * middle


def _thirds(rows: Sequence[Row]) -> tuple[float, float]:
    sizes = [row["home"] + row["prefect"] + row["milvus"] for row in rows]
    third = max(1, len(sizes) // 3)
    return max(sizes[third : 2 * third]), max(sizes[2 * third :])


def draw(rows: Sequence[Row], file: Path) -> None:
    """Draw nDCG@10, disk, and peak memory of each night; dotted lines mark the nights with a fault."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    quality, disk, memory = figure.subplots(3, 1, sharex=True)
    nights = [row["night"] for row in rows]
    quality.plot(nights, [row["ndcg"] for row in rows], marker=".")
    names = ("home", "prefect", "milvus")
    disk.stackplot(nights, *([row[name] for row in rows] for name in names), labels=("home", "Prefect", "Milvus"))
    disk.legend(frameon=False, loc="upper left")
    memory.plot(nights, [row["peak"] / 1000 for row in rows], marker=".")
    for axes, title in ((quality, "nDCG@10 of test queries"), (disk, "disk, MB"), (memory, "peak memory, GB")):
        axes.set_title(title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        for row in rows:
            if row["fault"]:
                axes.axvline(row["night"], color="gray", linestyle=":", linewidth=0.8)
    for row in rows:
        if row["fault"]:
            label = {"rotation": 90, "fontsize": 6, "color": "gray", "va": "bottom", "ha": "right"}
            quality.text(row["night"], quality.get_ylim()[0], row["fault"], **label)
    memory.set_xlabel("night")
    memory.set_ylim(bottom=0)
    figure.savefig(file, dpi=150)
