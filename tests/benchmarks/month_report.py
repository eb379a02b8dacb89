"""The tables and the figure of the benchmark of a month."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from statistics import mean
from typing import Any

STAGES = ("start", "validate", "compare", "index", "mine", "train", "embed", "evaluate", "publish")


def format_table(rows: Sequence[dict[str, Any]], policies: Sequence[str]) -> str:
    """Format two Markdown tables: quality and cost of each policy, and its CPU-seconds by stage.

    The first policy is the one that costs are compared with. A policy without nights is left out. Quality is compared
    on the nights that all policies ran, and cost per night.
    """
    of_policy = {name: [row for row in rows if row["policy"] == name] for name in policies}
    of_policy = {name: nights for name, nights in of_policy.items() if nights}
    if not of_policy:
        return "no night has finished"
    common = set.intersection(*({row["night"] for row in nights} for nights in of_policy.values()))
    cost = {name: mean(row["cpu"] for row in nights) for name, nights in of_policy.items()}
    first = next(iter(cost))
    columns = ["policy", "nights", f"mean nDCG@10 on {len(common)} nights", f"night {max(common)}", "CPU-s a night"]
    columns += [f"of {first}", "retrains", "releases", "wall, s a night"]
    lines = [f"| {' | '.join(columns)} |", "|---|" + "---:|" * (len(columns) - 1)]
    for name, nights in of_policy.items():
        scores = {row["night"]: row["ndcg"] for row in nights if row["night"] in common and row["queries"]}
        cells = [name, str(len(nights)), f"{mean(scores.values()):.4f}", f"{scores[max(scores)]:.4f}"]
        cells += [f"{cost[name]:,.0f}", f"{cost[name] / cost[first]:.1%}"]
        cells += [str(sum(row["work"] == "retrain" for row in nights)), str(sum(row["released"] for row in nights))]
        cells.append(f"{mean(row['wall'] for row in nights):,.0f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"\nInterrupted nights of {name}: {count}; their CPU-seconds lack those before the interruption."
        for name, nights in of_policy.items()
        if (count := sum(row["interrupted"] for row in nights))
    ]
    lines += ["", f"| CPU-seconds a night | {' | '.join(STAGES)} |", "|---|" + "---:|" * len(STAGES)]
    for name, nights in of_policy.items():
        stages = [mean(row["stages"].get(stage, 0.0) for row in nights) for stage in STAGES]
        lines.append(f"| {name} | {' | '.join(f'{seconds:,.1f}' for seconds in stages)} |")
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
        since = [number - before for before, number in pairwise([0, *numbers])]  # a night that ran stands for these
        spent = accumulate(count * row["cpu"] for count, row in zip(since, nights, strict=True))
        cost.plot(numbers, list(spent), marker=".", label=name)
    for axes, label in ((quality, "nDCG@10 on the queries of the night"), (cost, "CPU-seconds, cumulative")):
        axes.set(xlabel="night", title=label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.spines[["top", "right"]].set_visible(False)
    cost.set_ylim(bottom=0)
    quality.legend(frameon=False)
    figure.savefig(file, dpi=150)
