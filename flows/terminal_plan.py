"""Print the plan of a dry run: rows read, action, and cost per step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from flows.console import open_console
from tasks.core.base.progress import format_duration
from tasks.core.drift.findings import Action
from tasks.core.ingest.judged_pairs import describe_pairs

if TYPE_CHECKING:
    from tasks.core.base.receipts import Ingested
    from tasks.core.drift.findings import Drift
    from tasks.core.report.forecast import Forecast

PLANS = {
    Action.SKIP: "do nothing",
    Action.SUSPECT: "train nothing, publish changed passages, and ask you to check the queries",
    Action.LABEL: "change nothing and ask you to label queries",
    Action.REFRESH: "embed the changed passages with the serving encoder and publish",
    Action.RETRAIN: "mine, train, and embed, and publish if the gate promotes",
}


def print_plan(ingested: Ingested, drift: Drift, plan: Forecast) -> None:
    """Print the rows read, the action, one line per step, and the total."""
    console = open_console(highlight=False)
    console.print(ingested.balance)
    if origins := describe_pairs(ingested.pairs_from):
        console.print(origins)
    console.print(Text(f"a night would {PLANS[drift.verdict]} ", style="bold") + Text(f"({drift.cause})"))
    if not plan.steps:
        return
    table = Table(box=None, pad_edge=False)
    for name in ("step", "amount", "takes about", "estimated from"):
        table.add_column(name)
    for cost in plan.steps:
        table.add_row(cost.step, cost.amount, format_duration(cost.seconds), cost.basis)
    table.add_row("total", "", format_duration(plan.seconds), "", style="bold")
    console.print(table)
    console.print(f"Adds about {plan.bytes / 2**20:,.0f} MiB on disk. Times may be off by a factor of two.")
