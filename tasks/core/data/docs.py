"""The outcome of all contracts as one page that anybody can open, today or in a year, without a network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from data_contracts.contract import Contract
from tasks.core.data.quarantine import Tally
from tasks.core.files import write_text
from tasks.core.pages import render
from tasks.core.receipts import RuleCount

PAGE = "contracts.html"


def write_docs(
    folder: Path, source: str, contracts: Sequence[Contract], tallies: Sequence[Tally], rules: Sequence[RuleCount]
) -> None:
    """Write `contracts.html` into `folder`: rows per table, the reader's own rules, Great Expectations' Data Docs."""
    from data_contracts.docs import Outcome, docs_of

    when = datetime.now(UTC).isoformat(timespec="seconds")
    counts = {(one.table, one.rule): one for one in rules}
    docs, known = {}, set()
    for contract in contracts:
        asked = [(rule, counts[contract.table, rule.name]) for rule in contract.rules]
        outcomes = [Outcome(rule, one.checked, one.failed, one.offenders) for rule, one in asked]
        docs[contract.table] = docs_of(contract, outcomes, when)
        known |= {(contract.table, rule.name) for rule in contract.rules}
    page = render(
        Path(__file__).with_name("contracts.html.jinja"),
        source=source,
        when=when,
        tallies=tallies,
        figures=[one for one in rules if not one.checked_rows],
        faults=[one for key, one in counts.items() if key not in known],
        docs=docs,
    )
    write_text(folder / PAGE, page)
