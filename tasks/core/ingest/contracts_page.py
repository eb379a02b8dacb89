"""Writes `contracts.html`: the results of all data contracts on one page that needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from data_contracts.contract import JUDGMENTS, SOURCE_TABLE_OF, TABLES, Severity
from tasks.core.base.files import write_text
from tasks.core.base.rule_count import RuleCount
from tasks.core.base.templates import render
from tasks.core.ingest.quarantine import QUARANTINE, Refused, Tally, refused_by_rule

PAGE = "contracts.html"
SAMPLES = 5  # refused rows shown per rule


class Status(StrEnum):
    """The result of a rule."""

    FAILED = "failed"  # rows were quarantined, or the night was stopped
    WARNING = "warning"  # rows failed the rule and were accepted
    MERGED = "merged"  # rows equal earlier rows and were merged with them
    PASSED = "passed"
    UNCHECKED = "not checked"  # no rows to check, or no snapshot to compare with


class Line(NamedTuple):
    """A rule on the page."""

    rule: RuleCount
    status: Status
    samples: Sequence[Refused]


_STATUS_OF_SEVERITY = {Severity.ERROR: Status.FAILED, Severity.WARN: Status.WARNING, Severity.MERGE: Status.MERGED}


def status_of(rule: RuleCount) -> Status:
    """Return the result of a rule, from its counts."""
    if rule.failed:
        return _STATUS_OF_SEVERITY[Severity(rule.severity)]
    return Status.PASSED if rule.checked else Status.UNCHECKED


def write_docs(folder: Path, source: str, tallies: Sequence[Tally], rules: Sequence[RuleCount]) -> None:
    """Write `contracts.html` into `folder`, next to the quarantine: rows per table, and every rule with sample rows."""
    samples = refused_by_rule(folder, SAMPLES)
    lines = [Line(rule, status_of(rule), samples.get((SOURCE_TABLE_OF[rule.table], rule.rule), ())) for rule in rules]
    order = list(Status)
    lines.sort(key=lambda line: order.index(line.status))  # stable: keeps the order of the contract within a status
    page = render(
        Path(__file__).with_name("contracts.html.jinja"),
        source=source,
        when=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        tallies=tallies,
        tables={table: [line for line in lines if line.rule.table == table] for table in (*TABLES, JUDGMENTS)},
        counts={status: sum(line.status is status for line in lines) for status in Status},
        quarantine=QUARANTINE,
    )
    write_text(folder / PAGE, page)
