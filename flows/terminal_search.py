"""Print the result of a shadow search."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from flows.console import open_console
from tasks.core.search.shadow import Shadow


def print_shadow(result: Shadow) -> None:
    """Print how similar the rankings are, then the queries whose rankings differ most."""
    console = open_console(highlight=False)
    console.print(
        f"{result.shadow} compared with {', '.join(result.serving)}: {result.queries:,} queries", style="bold"
    )
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row(f"{result.overlap:.1%}", f"of the top {result.k} passages in common (overlap@{result.k})")
    table.add_row(f"{result.same_first:.1%}", "of the queries have the same top passage")
    table.add_row(f"{result.rbo:.3f}", "rank-biased overlap (p = 0.9): 1 = same ranking, 0 = nothing in common")
    table.add_row(
        f"{result.shift:.2f}", f"mean rank change of a passage; a missing passage counts as rank {result.k + 1}"
    )
    console.print(table)
    moved = [query for query in result.moved if query.served != query.shadowed]
    if moved:
        console.print("\nLargest changes", style="bold")
    for query in moved:
        console.print(Text(f"{query.overlap:4.0%}  ", style="cyan") + Text(query.query))
        first = (query.served[:1] or ("nothing",))[0], (query.shadowed[:1] or ("nothing",))[0]
        console.print(Text(f"      first {first[0]} → {first[1]}", style="dim"))
