"""Charts of the night report as inline SVG, readable on light and on dark."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tasks.core.evaluation.measures import NAMES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = "#8a8f98"
COLOURS = {"challenger": "#3b82f6", "serving": "#14b8a6", "base": "#a78bfa", "bm25": "#f59e0b"}
LABELS = {"challenger": "challenger", "serving": "serving release", "base": "base model", "bm25": "BM25"}


def quality(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Bars of every measure for every system that was measured."""
    figure = _figure(8.4, 2.8)
    axes = figure.add_subplot()
    systems = [name for name in LABELS if name in figures]
    width = 0.8 / max(1, len(systems))
    for place, name in enumerate(systems):
        left = [group + place * width for group in range(len(NAMES))]
        values = [figures[name][measure] for measure in NAMES]
        bars = axes.bar(left, values, width * 0.92, color=COLOURS[name], label=LABELS[name])
        axes.bar_label(bars, fmt="%.3f", fontsize=7, color=GREY, padding=2)
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(NAMES))], list(NAMES.values()))
    axes.set_ylim(0, 1.1)
    _plain(axes)
    axes.legend(ncols=4, fontsize=8, frameon=False, labelcolor=GREY, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return _svg(figure)


def loss(rounds: Sequence[Sequence[float]]) -> str:
    """Training loss by step, a line a round, smoothed over ten steps."""
    figure = _figure(8.4, 2.2)
    axes = figure.add_subplot()
    for number, values in enumerate(rounds):
        smooth = [sum(values[max(0, i - 9) : i + 1]) / len(values[max(0, i - 9) : i + 1]) for i in range(len(values))]
        axes.plot(range(1, len(values) + 1), smooth, label=f"round {number}", linewidth=1.8)
    axes.set_xlabel("step", color=GREY)
    axes.set_ylabel("InfoNCE loss", color=GREY)
    _plain(axes)
    if len(rounds) > 1:
        axes.legend(fontsize=8, frameon=False, labelcolor=GREY)
    return _svg(figure)


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _plain(axes) -> None:  # type: ignore[no-untyped-def]
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.tick_params(colors=GREY)
    axes.set_facecolor("none")


def _svg(figure: Figure) -> str:
    import matplotlib as mpl

    out = io.StringIO()
    # A fixed salt and no date: the same night gives the same bytes.
    with mpl.rc_context({"svg.hashsalt": "nightshift", "svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    text = out.getvalue()
    return text[text.index("<svg") :]
