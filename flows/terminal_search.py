"""What a person sees of a shadow search."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from flows.console import open_console
from tasks.core.search.shadow import Shadow


def print_shadow(found: Shadow) -> None:
    """How alike the two are, then the queries whose answers lie furthest apart."""
    console = open_console(highlight=False)
    console.print(f"{found.shadow} beside {', '.join(found.serving)}: {found.queries:,} queries", style="bold")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row(f"{found.overlap:.1%}", f"of the {found.k} best passages in common (overlap@{found.k})")
    table.add_row(f"{found.same_first:.1%}", "of the queries have the same best passage")
    table.add_row(f"{found.rbo:.3f}", "rank-biased overlap (p = 0.9): 1 is the same ranking, 0 nothing in common")
    table.add_row(f"{found.shift:.2f}", f"ranks that a passage moved, in the mean; gone counts as rank {found.k + 1}")
    console.print(table)
    if found.moved:
        console.print("\nMoved most", style="bold")
    for one in found.moved:
        console.print(Text(f"{one.overlap:4.0%}  ", style="cyan") + Text(one.query))
        first = (one.served[:1] or ("nothing",))[0], (one.shadowed[:1] or ("nothing",))[0]
        console.print(Text(f"      first {first[0]} → {first[1]}", style="dim"))
