"""Print search results, releases, drift, refused rows, comparisons, and checks on the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.console import open_console
from tasks.core.base.errors import NO_RELEASE
from tasks.core.evaluation.measures import NAMES
from tasks.core.release.names import short_name

if TYPE_CHECKING:
    from flows.doctor import Check
    from tasks.core.base.receipts import Release
    from tasks.core.drift.findings import Drift
    from tasks.core.report.compare import SystemComparison
    from tasks.core.search.searcher import Answer

MAX_CHARACTERS = 360  # of a passage; --json has the full text
WIDE = 120  # columns of a terminal that has room for the reasons of releases


def print_answer(answer: Answer) -> None:
    """Print ranked passages with their scores."""
    console = open_console()
    console.print(f"release {answer.release}", style="dim")
    for hit in answer.hits:
        head = Text(f"{hit.rank:>2}  {hit.score:.3f}  ", style="cyan")
        console.print(head + Text(hit.title or hit.passage_id, style="bold"))
        console.print(Text(textwrap.shorten(hit.text, MAX_CHARACTERS, placeholder=" …")), style="dim")


def print_releases(current: Release | None, known: Sequence[Release], pinned: Collection[str]) -> None:
    """Print one line per release and its state; on wide terminals also the reason it was built."""
    console = open_console()
    wide = console.width >= WIDE
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0))
    widths = {
        "release": 7,
        "created": 16,
        "passages": 8,
        "nDCG@10": 7,
        "BM25": 6,
        "base": 6,
        "previous": 8,
        "ranks": 7,
        "state": 7,
    }
    for name, width in widths.items():
        table.add_column(name, no_wrap=True, min_width=width)
    if wide:
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
            release.ranking.mode,
            ", ".join(state for state, active in states.items() if active),
            *([release.reason] if wide else []),
            style="bold green" if serves else "dim" if release.pruned else "",
        )
    console.print(table if known else NO_RELEASE)
    if current is not None:
        reason = "" if wide else f" (why: {current.reason})"
        console.print(Text(f"{current.release} serves{reason}", style="dim"))


def print_drift(drift: Drift) -> None:
    """Print the action, its signals, the terms that moved, and the queries that need labels."""
    console = open_console(highlight=False, soft_wrap=True)
    console.print(Text(f"{drift.verdict}: ", style="bold") + Text(drift.cause))
    passages = drift.passages
    console.print(f"passages: {passages.new:,} new, {passages.changed:,} changed, {passages.gone:,} gone", style="dim")
    if drift.fresh:
        counts = ", ".join(f"{count:,} in the {source}" for source, count in drift.fresh.items())
        console.print(f"new queries: {counts}", style="dim")
    for signal in drift.signals:
        mark = "fired" if signal.fired else "quiet"
        threshold = "information only" if signal.threshold is None else f"threshold {signal.threshold:.4f}"
        console.print(f"  {mark}  {signal.name.replace('_', ' ')}  {signal.value:.4f}  ({threshold})")
    if drift.windows:
        console.print(f"  evidence of drift  {drift.evidence:,.0f}  (line {drift.line:,.0f})")
    for topic in drift.topics:
        examples = "; ".join(topic.examples[:2])
        console.print(Text(f"  topic “{topic.name}”: {topic.queries:,} queries, {topic.shortfall}: {examples}"))
    for step in drift.advice:
        console.print(Text(f"  {step}", style="bold"))
    for term in drift.terms:
        console.print(Text(f"  term “{term.term}”: {term.share:.2%} of all terms, {term.reference:.2%} before"))
    if drift.unfamiliar:
        console.print(Text("\nUnfamiliar queries, lowest score first", style="bold"))
    for query in drift.unfamiliar:
        console.print(Text(f"  {query}"))
    if drift.unfamiliar_file:
        console.print(Text(f"all unfamiliar queries: {drift.unfamiliar_file}", style="dim"))


def print_refusals(refusals: Mapping[str, Any]) -> None:
    """Print row counts per table, then each rule that refused rows, with a sample."""
    console = open_console(highlight=False)
    counts = Table(box=None, pad_edge=False)
    counts.add_column("table")
    for name in ("rows in", "accepted", "merged", "quarantined", "forgotten"):
        counts.add_column(name, justify="right")
    for name, rows in refusals["in"].items():
        outcomes = (refusals[part][name] for part in ("accepted", "merged", "quarantined", "forgotten"))
        counts.add_row(name, f"{rows:,}", *(f"{count:,}" for count in outcomes))
    console.print(counts)
    for rule in refusals["rules"]:
        console.print(Text(f"\n{rule['rule']}", style="bold") + Text(f"  {rule['rows']:,} of {rule['table']}"))
        for row in rule["samples"]:
            console.print(Text(f"  {row['file']}:{row['row']}  ", style="cyan") + Text(row["reason"], style="dim"))
    if not refusals["rules"]:
        console.print("no row was refused", style="green")


def print_comparison(result: SystemComparison) -> None:
    """Print the measures of both systems, the interval of the difference, and the queries that changed most."""
    console = open_console(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    for name in NAMES.values():
        table.add_column(name, justify="right")
    for name, metrics in zip((result.a, result.b), result.metrics, strict=True):
        table.add_row(name, *(f"{metrics[key]:.4f}" for key in NAMES))
    console.print(table)
    console.print(f"\n{result.b} over {result.a}: {result.comparison}")
    same = result.comparison.queries - result.better - result.worse
    counts = f"{result.better} queries better, {result.worse} worse, {same} equal"
    console.print(f"{counts}; {result.overlap:.0%} of the top ten passages in common", style="dim")
    if result.settings is not None:
        console.print(f"{len(result.settings) or 'no'} settings differ", style="dim")
    for change in result.settings or ():
        console.print(Text(f"  {change.name}: {change.before or 'not set'} → {change.after or 'not set'}", style="dim"))
    for title, cases in (("Worst losses", result.losses), ("Best gains", result.gains)):
        if cases:
            console.print(Text(f"\n{title}", style="bold"))
        for case in cases:
            console.print(Text(f"{case.gain:+.3f}  ", style="red" if case.gain < 0 else "green") + Text(case.query))
            ranks = f"answer at rank {case.their_rank or 'none'} → {case.our_rank or 'none'}; now first: "
            first = case.our_first[0] if case.our_first else None
            passage = textwrap.shorten(f"{first.title} {first.text}", 160, placeholder=" …") if first else "nothing"
            console.print(Padding(Text(f"{ranks}{passage}", style="dim"), (0, 0, 0, 8)))


def print_checks(checks: Sequence[Check]) -> None:
    """Print one line per check, and a fix below each failed check."""
    console = open_console(soft_wrap=True)
    for check in checks:
        mark = Text("ok   ", style="green") if check.passed else Text("FAIL ", style="bold red")
        console.print(mark + Text(f"{check.name:<8} ") + Text(check.detail, style="dim"))
        if not check.passed:
            console.print(Text(f"     {'':<8} {check.fix}", style="yellow"))
