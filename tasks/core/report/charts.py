"""Charts of the night report, as inline SVG.

The page sets the color of text, to fit the reader's light or dark scheme. The colors of lines and bars are distinct in
both schemes, also for readers with red-green color blindness.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from tasks.core.drift.findings import Window
from tasks.core.evaluation.measures import NAMES
from tasks.core.evaluation.significance import Comparison
from tasks.core.evaluation.systems import System
from tasks.core.report.outcomes import Outcome
from tasks.core.report.steps import LABELS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREY = "#8a8f98"
COLORS = {
    System.CHALLENGER: "#3b82f6",
    System.DENSE: "#93c5fd",
    System.SERVING: "#14b8a6",
    System.BASE: "#a78bfa",
    System.BM25: "#f59e0b",
}

WORSE, BETTER = "#ea580c", "#3b82f6"


class Marker(NamedTuple):
    """Marker for the nights of one outcome."""

    label: str
    shape: str
    color: str
    inside: str  # fill of the shape


OUTCOMES = {
    Outcome.PROMOTED: Marker("promoted", "o", COLORS[System.CHALLENGER], COLORS[System.CHALLENGER]),
    Outcome.REJECTED: Marker("rejected", "o", COLORS[System.CHALLENGER], "none"),
    Outcome.SKIPPED: Marker("skipped", "_", GREY, GREY),
    Outcome.FAILED: Marker("failed", "x", WORSE, WORSE),
}
ATTENTION = Marker("needs a person", "^", "#a16207", "#a16207")  # all other outcomes, such as Suspect
WIDTH = 4.6  # inches; fits a phone without shrinking the text
SMOOTHED = 10  # steps in the moving average of the loss


def quality(figures: Mapping[System, Mapping[str, float]]) -> str:
    """Draw bars of every measure for every evaluated system. Return SVG."""
    figure, axes = _figure(2.7)
    systems = [name for name in COLORS if name in figures]
    width = 0.84 / max(1, len(systems))
    size = 7 if len(systems) < 5 else 5.5  # points; the values of neighboring bars do not touch
    for position, name in enumerate(systems):
        left = [group + position * width for group in range(len(NAMES))]
        values = [figures[name].get(measure, 0.0) for measure in NAMES]
        bars = axes.bar(left, values, width * 0.9, color=COLORS[name], label=LABELS[name])
        axes.bar_label(bars, [f"{value:.2f}".removeprefix("0") for value in values], fontsize=size, padding=2)
    axes.set_xticks([group + 0.42 - width / 2 for group in range(len(NAMES))], list(NAMES.values()))
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("mean over the queries")
    axes.set_yticks([0, 0.5, 1])
    _legend(axes, min(3, len(systems)))
    return _svg(figure, "quality", "Bars: every measure for every system")


def weights(values: Sequence[float], measured: Sequence[float], chosen: float) -> str:
    """Draw nDCG@10 on the dev queries for each weight of the dense score, from BM25 alone to the encoder alone."""
    figure, axes = _figure(2.1)
    axes.plot(values, measured, color=COLORS[System.CHALLENGER], linewidth=1.8)
    axes.axvline(chosen, color=GREY, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_xticks([0, chosen, 1] if 0 < chosen < 1 else [0, 1])
    axes.set_xticklabels(["BM25", *([f"\n{chosen:.2f}"] if 0 < chosen < 1 else []), "encoder"])
    axes.set_ylabel("nDCG@10, dev queries")
    axes.set_title("Weight of the encoder's score", fontsize=9.5, loc="left")
    return _svg(figure, "weights", "Line: nDCG@10 of the dev queries for each weight of the encoder's score")


def differences(comparisons: Mapping[str, Comparison], margin: float) -> str:
    """Draw the challenger's gain in nDCG@10, overall and by segment, with intervals; dashed line: −margin."""
    figure, axes = _figure(1.2 + 0.27 * len(comparisons))
    for row, comparison in enumerate(reversed(list(comparisons.values()))):
        color = BETTER if comparison.low > 0 else WORSE if comparison.high < 0 else GREY
        axes.plot([comparison.low, comparison.high], [row, row], color=color, linewidth=2.4, solid_capstyle="round")
        axes.plot([comparison.difference], [row], "o", color=color, markersize=6)
    axes.axvline(0, color=GREY, linewidth=1)
    if margin > 0:
        axes.axvline(-margin, color=WORSE, linewidth=1, linestyle=(0, (3, 3)))
    axes.set_yticks(range(len(comparisons)), list(comparisons)[::-1])
    axes.set_ylim(-0.6, len(comparisons) - 0.4)
    axes.set_title("Gain of the challenger", fontsize=9.5, loc="left")
    axes.set_xlabel("← worse · gain in nDCG@10 · better →")
    axes.margins(x=0.08)
    return _svg(figure, "differences", "The challenger's gain in nDCG@10 over others, with intervals")


def loss(rounds: Sequence[Sequence[float]]) -> str:
    """Draw the training loss by step, one line per round, averaged over the last ten steps."""
    figure, axes = _figure(2.1)
    for (number, values), color in zip(enumerate(rounds), _cycle(len(rounds)), strict=True):
        style: dict[str, Any] = {"marker": "o" if len(values) == 1 else None, "linewidth": 1.8, "color": color}
        axes.plot(range(1, len(values) + 1), _smooth(values), label=f"round {number}", **style)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.set_ylim(bottom=0)
    if len(rounds) > 1:
        _legend(axes, len(rounds))
    return _svg(figure, "loss", "Training loss by step")


def dev(rounds: Sequence[Sequence[tuple[int, float]]]) -> str:
    """Draw nDCG@10 on dev queries by step, one line per round."""
    figure, axes = _figure(2.1)
    for (number, points), color in zip(enumerate(rounds), _cycle(len(rounds)), strict=True):
        if points:
            axes.plot(*zip(*points, strict=True), "o-", label=f"round {number}", markersize=4, color=color)
    axes.set_xlabel("step")
    axes.set_ylabel("nDCG@10, dev")
    if len(rounds) > 1:
        _legend(axes, len(rounds))
    return _svg(figure, "dev", "nDCG@10 on development queries by step")


def trend(nights: Sequence[Mapping[str, Any]]) -> str:
    """Draw nDCG@10 of challenger, serving release, and BM25 over the nights, with a marker per outcome.

    Args:
        nights: Rows of the history, oldest first, each with `began`, `outcome`, and `…_ndcg`. Nights without an
            evaluation are marked below the lines.
    """
    figure, axes = _figure(2.6)
    places = range(len(nights))
    for system in (System.BM25, System.SERVING, System.CHALLENGER):
        known = [(x, night[f"{system}_ndcg"]) for x, night in zip(places, nights, strict=True)]
        known = [(x, value) for x, value in known if value is not None]
        if known:
            style: dict[str, Any] = {"color": COLORS[system], "linewidth": 1.8, "markersize": 5}
            style["marker"] = None if system is System.CHALLENGER else "."  # its points are the outcome markers
            axes.plot(*zip(*known, strict=True), label=LABELS[system], **style)
    for marker in (*OUTCOMES.values(), ATTENTION):
        chosen = [(x, night) for x, night in enumerate(nights) if OUTCOMES.get(night["outcome"], ATTENTION) is marker]
        _mark(axes, chosen, marker)
    step = -(-len(nights) // 5)  # at most five dates
    axes.set_xticks(list(places)[::step], _dates([night["began"] for night in nights])[::step])
    axes.set_xlim(-0.5, len(nights) - 0.5)
    axes.set_ylabel("nDCG@10")
    axes.set_xlabel("night")
    axes.margins(y=0.18)
    _legend(axes, 4)
    return _svg(figure, "trend", "nDCG@10 and outcome of the last nights")


def evidence(windows: Sequence[Window]) -> str:
    """Draw the evidence of drift after each window on a log scale, and the line that confirms drift. Return SVG.

    Windows without evidence, such as suspect ones, have no point.
    """
    figure, axes = _figure(2.4)
    line = windows[-1].line
    places = [x for x, window in enumerate(windows) if window.line]
    heights = [max(1.0, windows[x].evidence) for x in places]
    axes.axhline(line, color=WORSE, linestyle="--", linewidth=1.3, label=f"drift is confirmed: {line:,.0f}")
    axes.plot(places, heights, color=BETTER, linewidth=1.8, label="evidence")
    for label, shape, color, chosen in (
        ("passed", "o", WORSE, [x for x in places if windows[x].evidence >= windows[x].line]),
        ("suspect", "^", ATTENTION.color, [x for x in places if windows[x].suspect]),
        ("repeated", "s", GREY, [x for x in places if windows[x].repeats]),
    ):
        if chosen:
            values = [max(1.0, windows[x].evidence) for x in chosen]
            axes.plot(chosen, values, shape, color=color, markersize=6, linestyle="none", label=label)
    axes.set_yscale("log")
    axes.set_ylim(0.7, line * 10)
    powers = [10**exponent for exponent in range(1 + math.floor(math.log10(line * 10)))]
    axes.set_yticks(powers, [f"{power:,}" for power in powers])
    step = -(-len(windows) // 5)  # at most five dates
    axes.set_xticks(list(range(len(windows)))[::step], _dates([window.at for window in windows])[::step])
    axes.set_xlim(-0.5, len(windows) - 0.5)
    axes.set_ylabel("evidence of drift")
    axes.set_xlabel("window")
    axes.minorticks_off()
    _legend(axes, 3)
    return _svg(figure, "evidence", "Evidence of drift by window, and the line that confirms drift")


def _mark(axes: Axes, nights: Sequence[tuple[int, Mapping[str, Any]]], marker: Marker) -> None:
    """Mark the nights of one outcome at the challenger's nDCG@10, or at the bottom if there is none."""
    style: dict[str, Any] = {"color": marker.color, "markerfacecolor": marker.inside, "linestyle": "none"}
    label: str | None = marker.label
    for measured in (True, False):
        chosen = [(x, night) for x, night in nights if (night["challenger_ndcg"] is not None) is measured]
        heights = [night["challenger_ndcg"] if measured else 0.04 for _, night in chosen]
        transform: dict[str, Any] = (
            {} if measured else {"transform": axes.get_xaxis_transform()}
        )  # y as a fraction of the height
        if chosen:
            axes.plot([x for x, _ in chosen], heights, marker.shape, markersize=5.5, label=label, **style, **transform)
            label = None  # once in the legend


def _figure(height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(color=GREY, labelsize=8.5)
    axes.xaxis.label.set_fontsize(8.5)
    axes.yaxis.label.set_fontsize(8.5)
    axes.set_facecolor("none")
    return figure, axes


def _legend(axes: Axes, columns: int) -> None:
    axes.legend(
        ncols=columns,
        fontsize=8,
        frameon=False,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        columnspacing=1.0,
        handlelength=1.2,
    )


def _cycle(count: int) -> list[str]:
    known = list(COLORS.values())
    return [known[number % len(known)] for number in range(count)]


def _smooth(values: Sequence[float]) -> list[float]:
    windows = (values[max(0, end - SMOOTHED) : end] for end in range(1, len(values) + 1))
    return [sum(window) / len(window) for window in windows]


def _dates(nights: Sequence[datetime]) -> list[str]:
    """Format the day of each night, or the time if all nights are on the same day."""
    if len({began.date() for began in nights}) == 1:
        return [f"{began:%H:%M}" for began in nights]
    return [f"{began.day} {began:%b}" for began in nights]


def _svg(figure: Figure, name: str, label: str) -> str:
    """Return the chart as an SVG element. The same figure gives the same bytes."""
    import matplotlib as mpl

    out = io.StringIO()
    # The salt keeps ids of clip paths unique on a page. A date would change the bytes.
    with mpl.rc_context({"svg.hashsalt": f"nightshift {name}", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)  # unused ids that repeat in every chart
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" class="chart" ', 1)
