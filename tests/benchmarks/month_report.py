"""The tables and the figure of the benchmark of a month."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

STAGES = ("start", "validate", "compare", "index", "mine", "train", "embed", "evaluate", "publish")


def format_table(rows: Sequence[dict[str, Any]], policies: Sequence[str]) -> str:
    """Format two Markdown tables: quality and cost of each policy, and its CPU-seconds by stage.

    The first policy is the one that costs are compared with. A policy without nights is left out.
    """
    of_policy = {name: [row for row in rows if row["policy"] == name] for name in policies}
    of_policy = {name: nights for name, nights in of_policy.items() if nights}
    total = {name: sum(row["cpu"] for row in nights) for name, nights in of_policy.items()}
    first = next(iter(total), "")
    columns = ["policy", "nights", "mean nDCG@10", "last night", "CPU-seconds", f"of {first}", "retrains"]
    columns += ["releases", "wall, min"]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, nights in of_policy.items():
        scores = [row["ndcg"] for row in nights if row["queries"]]
        cells = [name, str(len(nights)), f"{sum(scores) / len(scores):.4f}", f"{scores[-1]:.4f}", f"{total[name]:,.0f}"]
        cells += [f"{total[name] / total[first]:.1%}", str(sum(row["work"] == "retrain" for row in nights))]
        cells += [str(sum(row["released"] for row in nights)), f"{sum(row['wall'] for row in nights) / 60:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"\nInterrupted nights of {name}: {count}; their CPU-seconds lack those before the interruption."
        for name, nights in of_policy.items()
        if (count := sum(row["interrupted"] for row in nights))
    ]
    lines += ["", f"| CPU-seconds | {' | '.join(STAGES)} |", "|---|" + "---:|" * len(STAGES)]
    for name, nights in of_policy.items():
        stages = [sum(row["stages"].get(stage, 0.0) for row in nights) for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(f'{seconds:,.0f}' for seconds in stages)} |")
    return "\n".join(lines)


def draw(rows: Sequence[dict[str, Any]], policies: Sequence[str], file: Path) -> None:
    """Draw nDCG@10 of each night, and the CPU-seconds up to each night, with a curve for each policy."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    quality, cost = figure.subplots(1, 2)
    for name in policies:
        nights = [row for row in rows if row["policy"] == name]
        numbers = [row["night"] for row in nights]
        quality.plot(numbers, [row["ndcg"] for row in nights], marker=".", label=name)
        cost.plot(numbers, list(accumulate(row["cpu"] for row in nights)), marker=".", label=name)
    for axes, label in ((quality, "nDCG@10 on the queries of the night"), (cost, "CPU-seconds, cumulative")):
        axes.set(xlabel="night", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    cost.set_ylim(bottom=0)
    quality.legend(frameon=False)
    figure.savefig(file, dpi=150)
