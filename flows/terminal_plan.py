"""What a dry run prints: what came in, what a night would do, and what that would cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flows.console import open_console
from flows.stages import minutes
from tasks.core.drift.findings import Action

if TYPE_CHECKING:
    from tasks.core.base.receipts import Ingested
    from tasks.core.drift.findings import Drift
    from tasks.core.report.forecast import Forecast

TODO = {
    Action.SKIP: "do nothing",
    Action.SUSPECT: "touch nothing, and ask for a look at the input",
    Action.LABEL: "touch nothing, and ask for labels",
    Action.REFRESH: "embed what changed with the serving encoder, and swap",
    Action.RETRAIN: "mine, train and embed, and swap if the gate agrees",
}


def print_plan(ingested: Ingested, drift: Drift, plan: Forecast) -> None:
    """The rows read, the verdict, a line for each step, and the sum."""
    console = open_console(highlight=False)
    console.print(ingested.balance)
    console.print(Text(f"a night would {TODO[drift.verdict]} ", style="bold") + Text(f"({drift.cause})"))
    if not plan.steps:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("step", "of", "takes about", "known from"):
        table.add_column(name)
    for one in plan.steps:
        table.add_row(one.step, one.amount, minutes(one.seconds), one.known)
    table.add_row("in all", "", minutes(plan.seconds), "", style="bold")
    console.print(table)
    console.print(f"and leaves about {plan.bytes / 2**20:,.0f} MiB on the disk. Times may be off by a factor of two.")
