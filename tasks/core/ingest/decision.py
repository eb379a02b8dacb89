"""Validates a source against all data contracts, and decides whether the night continues or stops."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import (
    CLICKS,
    SOURCE_TABLE_OF,
    TABLES,
    Contract,
    ContractError,
    Severity,
    contract_file,
    load_contract,
)
from tasks.core.base.duckdb_session import make_room, one_number
from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.receipts import Snapshot
from tasks.core.base.rule_count import RuleCount
from tasks.core.base.sections.data import DataSettings
from tasks.core.ingest.click_pairs import ClickLog, click_pairs
from tasks.core.ingest.forgotten_rows import ForgottenRows
from tasks.core.ingest.quarantine import Tally, count_rows, with_offenders
from tasks.core.ingest.snapshot_writer import stage_pairs
from tasks.core.ingest.staging import stage_source
from tasks.core.ingest.table_statistics import measure_aggregates
from tasks.core.ingest.validation import create_rule_tables, validate, validate_aggregates, validate_collection
from tasks.core.sources.combined import numbered
from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.rows import SCHEMAS

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")

Read = Callable[[str], Iterable[pa.RecordBatch]]


def validate_source(
    connection: duckdb.DuckDBPyConnection,
    read: Read,
    scratch: Path,
    data: DataSettings,
    last: Snapshot | None,
    forgotten: ForgottenRows,
) -> tuple[list[Tally], list[RuleCount], tuple[str, ...]]:
    """Stage the three source tables and check them against the contracts; before queries, also click logs.

    Creates the views `<table>_accepted` in the connection.

    Args:
        connection: an open database.
        read: streams the rows of a table.
        scratch: folder for staged rows.
        data: the section `[data]`.
        last: the snapshot that table sizes and texts are compared with, if there is one.
        forgotten: drops the rows that `nightshift forget` keeps out.

    Returns the row counts of each table, one count per rule, and notes about click logs.
    """
    contracts = load_contracts(data)
    create_rule_tables(connection, contracts)
    rules: list[RuleCount] = []
    logs: list[ClickLog] = []
    rows = 0
    make_room(connection, rows)
    for contract in contracts:
        if contract.table in SCHEMAS:
            batches = forgotten.without(contract.table, _batches(read, contract.table, logs))
            stage_source(connection, contract, batches, scratch)
            rows += one_number(connection, f"SELECT count(*) FROM {contract.table}_staged")
            make_room(connection, rows)
        else:
            stage_pairs(connection, contract, scratch, data)
        rules += validate(connection, contract, scratch)
        if contract.table == CLICKS:
            logs = [
                click_pairs(connection, part.name, part.weight, data.clicks)
                for part in data.parts
                if part.format == "clicks"
            ]
    for contract in contracts:
        rules += validate_collection(connection, contract, scratch)
    for contract in contracts:
        measure_aggregates(connection, contract, last, scratch)
        rules += validate_aggregates(connection, contract)
    tallies = [count_rows(connection, contract) for contract in contracts if contract.table in SCHEMAS]
    return tallies, with_offenders(connection, rules), tuple(note for log in logs for note in log.notes)


def contract_tables(data: DataSettings) -> tuple[str, ...]:
    """Return the tables that have a contract, in the order of validation: with click logs only if a source is one."""
    has_clicks = any(part.format == "clicks" for part in data.parts)
    return (TABLES[0], CLICKS, *TABLES[1:]) if has_clicks else TABLES


def load_contracts(data: DataSettings) -> list[Contract]:
    """Load the contracts of all tables. Raises NightshiftError for a contract that cannot be run."""
    try:
        return [load_contract(contract_file(table)) for table in contract_tables(data)]
    except ContractError as error:
        raise NightshiftError(f"data contract {error}") from error


def _batches(read: Read, table: str, logs: list[ClickLog]) -> Iterable[pa.RecordBatch]:
    """Return the rows of a table, then those that click logs add."""
    return numbered(chain(read(table), *(log.tables.get(table, []) for log in logs))) if logs else read(table)


def log_outcome(source: str, tallies: list[Tally], rules: list[RuleCount], first: Mapping[str, FirstFault]) -> None:
    """Log the row counts, the first refused row of each table, and every rule that failed."""
    _log.info("source: %s", source)
    for tally in tallies:
        counts = f"{tally.read:,} read, {tally.accepted:,} accepted, {tally.quarantined:,} refused"
        _log.info("%s: %s", tally.table, counts)
        if tally.table in first:
            _log.warning("first refused row of %s: %s", tally.table, first[tally.table])
        if tally.forgotten:
            _log.info("%d rows of %s are forgotten: dropped, and not stored", tally.forgotten, tally.table)
        if tally.merged:
            _log.info("merged %d equal copies in %s: each has one row in the snapshot", tally.merged, tally.table)
        if tally.not_relevant:
            _log.info("%d accepted qrels are not relevant: counted, never used as positives", tally.not_relevant)
        if tally.unsure:
            _log.info(
                "left out %d pairs of held-out queries: their weight is below [data] held_out_weight, or their source "
                "only trains",
                tally.unsure,
            )
    for rule in rules:
        if rule.failed:
            _log.info("%s", _failure_text(rule))


def _failure_text(rule: RuleCount) -> str:
    effect = "refused" if rule.severity == Severity.ERROR else "warning for"
    rows = f"{rule.failed:,} of {rule.checked:,} {rule.table}"
    scope = rows if rule.checked_rows else f"all {rule.table}, {rule.observed} where {rule.threshold} is required"
    return f"{effect} {scope}: {rule.description} ({rule.rule})"


def decide(
    tallies: list[Tally],
    rules: list[RuleCount],
    data: DataSettings,
    kept: Path,
    last: Snapshot | None,
    first: Mapping[str, FirstFault],
) -> None:
    """Stop the night when a table has too many refused rows, or fails an aggregate rule of severity error.

    Args:
        tallies: row counts of each table.
        rules: counts of each rule.
        data: the section `[data]`.
        kept: folder for the quarantine of a stopped night.
        last: the snapshot that tables were compared with.
        first: the first refused row of each table.

    Raises BadInput for such a table.
    """
    for tally in tallies:
        _check_refused_share(tally, rules, data.limit_of(tally.table), kept, first)
    for rule in rules:
        if not rule.checked_rows and rule.severity == Severity.ERROR and rule.failed:
            compared_with = f" (last snapshot: {last.digest})" if last else ""
            raise BadInput(
                f"{rule.table}: {rule.rule}: {rule.observed}, must be {rule.threshold}{compared_with}.\n"
                f"{rule.description.capitalize()}. If this is intended, run a night with "
                f"NIGHTSHIFT_DATA__COMPARE=false, or change the rule in data_contracts/{rule.table}.yaml."
            )


def _check_refused_share(
    tally: Tally, rules: list[RuleCount], limit: float, kept: Path, first: Mapping[str, FirstFault]
) -> None:
    if tally.refused_share <= limit:
        return
    errors = [rule for rule in rules if rule.severity == Severity.ERROR and rule.failed]
    broken = [rule for rule in errors if SOURCE_TABLE_OF[rule.table] == tally.table]
    broken.sort(key=lambda rule: -rule.failed)
    lines = [f"  {rule.rule}: {rule.failed}, first {', '.join(rule.offenders)}" for rule in broken[:3]]
    if tally.table == "qrels":  # their passages and queries may be missing for a reason that the file shows
        lines += [
            f"  {table} has refused rows too, the first: {row}" for table, row in first.items() if table != "qrels"
        ]
    raise BadInput(
        f"{tally.table}: {tally.quarantined} of {tally.read} rows refused ({tally.refused_share:.1%}); "
        f"[data] max_refused allows {limit:.1%}.\n"
        + "\n".join(lines)
        + f"\nThe first refused row: {first[tally.table]}\nAll refused rows with their reasons: "
        f"nightshift quarantine, or {kept / 'quarantine.parquet'}. Fix the source, or raise max_refused."
    )
