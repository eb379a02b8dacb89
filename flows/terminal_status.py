"""Print the state of several collections on the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from flows.console import open_console
from flows.schedules import display_time
from tasks.core.release.names import short_name
from tasks.core.report.collections import display_age

if TYPE_CHECKING:
    from tasks.core.report.collections import CollectionStatus


def print_statuses(statuses: Sequence[CollectionStatus]) -> None:
    """Print one line per collection, then where each serves and its problem, if any."""
    console = open_console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("collection", "release", "age", "nDCG@10", "BM25", "last night", "next night"):
        table.add_column(name, overflow="fold", no_wrap=name not in ("collection", "next night"))
    for status in statuses:
        table.add_row(
            status.name,
            short_name(status.release, [status.release]) if status.release else "none yet",
            display_age(status.age) if status.age else "–",
            *("–" if score is None else f"{score:.4f}" for score in (status.ndcg, status.bm25)),
            _last_night(status),
            _next_night(status),
        )
    console.print(table)
    for status in statuses:
        place = f"{status.collection} in {status.store}, " if status.collection else ""
        console.print(f"{status.name}: {place}home {status.home}", style="dim", soft_wrap=True)
        if status.problem:
            console.print(f"{status.name}: {status.problem}", style="red", soft_wrap=True)


def _last_night(status: CollectionStatus) -> str:
    if status.last_night is None:
        return "–"
    return f"{status.outcome or 'unknown'} {display_age(status.at - status.last_night)} ago"


def _next_night(status: CollectionStatus) -> str:
    if status.running_since is not None:
        return f"in progress since {display_time(status.running_since, status.at)}"
    return display_time(status.next_night, status.at) if status.next_night else "no schedule"
