"""What a person sees on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from flows.console import open_console
from tasks.core.evaluation.measures import NAMES
from tasks.core.release.names import short_name

if TYPE_CHECKING:
    from flows.doctor import Check
    from tasks.core.base.receipts import Release
    from tasks.core.drift.findings import Drift
    from tasks.core.report.compare import SystemComparison
    from tasks.core.search.searcher import Answer

SHOWN = 360  # characters of a passage on the terminal; --json has all of it
ROOMY = 120  # columns of a window that has room for the reason of a release in its line


def print_answer(answer: Answer) -> None:
    """Ranked passages, the score first."""
    console = open_console()
    console.print(f"release {answer.release}", style="dim")
    for hit in answer.hits:
        head = Text(f"{hit.rank:>2}  {hit.score:.3f}  ", style="cyan")
        console.print(head + Text(hit.title or hit.passage_id, style="bold"))
        console.print(Text(textwrap.shorten(hit.text, SHOWN, placeholder=" …")), style="dim")


def print_releases(current: Release | None, known: Sequence[Release], pinned: Collection[str]) -> None:
    """One line a release, with what serves, is pinned, or was pruned. Reasons follow where a line has room for them."""
    console = open_console()
    roomy = console.width >= ROOMY
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    widths = {"release": 7, "created": 16, "passages": 8, "nDCG@10": 7, "BM25": 6, "base": 6, "previous": 8, "state": 7}
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, min_width=width)
    if roomy:
        table.add_column("why", overflow="ellipsis", no_wrap=True)
    names = [release.release for release in known]
    for release in known:
        serves = current is not None and release.release == current.release
        figures = [release.metrics, release.bm25, release.base, release.previous]
        states = {"serving": serves, "pinned": release.release in pinned, "pruned": release.pruned}
        table.add_row(
            short_name(release.release, names),
            release.created[:16].replace("T", " "),
            f"{release.rows:,}",
            *("–" if not figure else f"{figure['ndcg@10']:.4f}" for figure in figures),
            ", ".join(state for state, holds in states.items() if holds),
            *([release.reason] if roomy else []),
            style="bold green" if serves else "dim" if release.pruned else "",
        )
    console.print(table if known else "no release yet: nightshift run makes the first")
    if current is not None:
        reason = "" if roomy else f": {current.reason}"
        console.print(Text(f"{current.release} serves{reason}", style="dim"))


def print_drift(drift: Drift) -> None:
    """The decision, every signal behind it, what moved, and the queries that need labels."""
    console = open_console(highlight=False, soft_wrap=True)
    console.print(Text(f"{drift.verdict}: ", style="bold") + Text(drift.cause))
    moved = drift.passages
    console.print(f"passages: {moved.new:,} new, {moved.changed:,} changed, {moved.gone:,} gone", style="dim")
    if drift.fresh:
        counts = ", ".join(f"{count:,} in the {source}" for source, count in drift.fresh.items())
        console.print(f"new queries: {counts}", style="dim")
    for signal in drift.signals:
        mark = "fired" if signal.fired else "quiet"
        against = "explains only" if signal.threshold is None else f"threshold {signal.threshold:.4f}"
        console.print(f"  {mark}  {signal.name.replace('_', ' ')}  {signal.value:.4f}  ({against})")
    for term in drift.terms:
        console.print(Text(f"  term “{term.term}”: {term.share:.2%} of all terms, {term.reference:.2%} before"))
    if drift.unfamiliar:
        console.print(Text("\nUnfamiliar queries, the lowest score first", style="bold"))
    for query in drift.unfamiliar:
        console.print(Text(f"  {query}"))
    if drift.unfamiliar_file:
        console.print(Text(f"all of them: {drift.unfamiliar_file}", style="dim"))


def print_refusals(found: Mapping[str, Any]) -> None:
    """Rows per table, then every rule that refused some, with its first rows."""
    console = open_console(highlight=False)
    counts = Table(box=None, pad_edge=False)
    counts.add_column("table")
    for name in ("rows in", "accepted", "of these merged", "quarantined"):
        counts.add_column(name, justify="right")
    for name, rows in found["in"].items():
        outcomes = (found[part][name] for part in ("accepted", "merged", "quarantined"))
        counts.add_row(name, f"{rows:,}", *(f"{count:,}" for count in outcomes))
    console.print(counts)
    for rule in found["rules"]:
        console.print(Text(f"\n{rule['rule']}", style="bold") + Text(f"  {rule['rows']:,} rows of {rule['table']}"))
        for one in rule["samples"]:
            console.print(Text(f"  {one['file']}:{one['row']}  ", style="cyan") + Text(one["reason"], style="dim"))
    if not found["rules"]:
        console.print("no row was refused", style="green")


def print_comparison(found: SystemComparison) -> None:
    """Measures of both, the interval of the difference, then the queries that changed most."""
    console = open_console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for name, metrics in zip((found.a, found.b), found.metrics, strict=True):
        table.add_row(name, *(f"{metrics[key]:.4f}" for key in NAMES))
    console.print(table)
    console.print(f"\n{found.b} over {found.a}: {found.comparison}")
    same = found.comparison.queries - found.better - found.worse
    counts = f"{found.better} queries better, {found.worse} worse, {same} equal"
    console.print(f"{counts}; {found.overlap:.0%} of the ten best passages in common", style="dim")
    if found.settings is not None:
        console.print(f"{len(found.settings) or 'no'} settings differ", style="dim")
    for one in found.settings or ():
        console.print(Text(f"  {one.name}: {one.before or 'not set'} → {one.after or 'not set'}", style="dim"))
    for title, cases in (("Worst losses", found.losses), ("Best gains", found.gains)):
        if cases:
            console.print(Text(f"\n{title}", style="bold"))
        for case in cases:
            console.print(Text(f"{case.gain:+.3f}  ", style="red" if case.gain < 0 else "green") + Text(case.query))
            ranks = f"answer at rank {case.their_rank or 'none'} → {case.our_rank or 'none'}; first now: "
            first = case.our_first[0] if case.our_first else None
            words = textwrap.shorten(f"{first.title} {first.text}", 160, placeholder=" …") if first else "nothing"
            console.print(Text(f"        {ranks}{words}", style="dim"))


def print_checks(checks: Sequence[Check]) -> None:
    """One line a check; below a failed one, how to mend it."""
    console = open_console()
    for check in checks:
        mark = Text("ok   ", style="green") if check.well else Text("FAIL ", style="bold red")
        console.print(mark + Text(f"{check.name:<8} ") + Text(check.found, style="dim"))
        if not check.well:
            console.print(Text(f"     {'':<8} {check.mend}", style="yellow"))
