"""From staged rows to a decision: every contract judged, the refused rows written down, the night let on or stopped."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import ROWS_OF, TABLES, Contract, ContractError, contract_file, load_contract
from tasks.core.base.duckdb_session import make_room, one_number
from tasks.core.base.errors import BadInput, NightshiftError
from tasks.core.base.receipts import RuleCount, Snapshot
from tasks.core.base.settings import DataSettings
from tasks.core.ingest.quarantine import SOURCE_TABLES, Tally, count_rows, with_offenders
from tasks.core.ingest.snapshot_writer import stage_pairs
from tasks.core.ingest.staging import stage_source
from tasks.core.ingest.table_statistics import measure_whole
from tasks.core.ingest.validation import prepare, validate, validate_collection, validate_whole
from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.rows import SCHEMAS

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")

Read = Callable[[str], Iterable[pa.RecordBatch]]


def validate_source(
    connection: duckdb.DuckDBPyConnection, read: Read, scratch: Path, data: DataSettings, last: Snapshot | None
) -> tuple[list[Tally], list[RuleCount]]:
    """Stage the three tables that `read(table)` streams and hold them against the contracts.

    Leaves the views `<table>_accepted` in the connection. `last` is the snapshot that table figures are compared with.
    Returns what became of the rows, and one count per rule.
    """
    contracts = load_contracts()
    prepare(connection, contracts)
    rules: list[RuleCount] = []
    rows = 0
    make_room(connection, rows)
    for contract in contracts:
        if contract.table in SCHEMAS:
            stage_source(connection, contract, read(contract.table), scratch)
            rows += one_number(connection, f"SELECT count(*) FROM {contract.table}_staged")
            make_room(connection, rows)
        else:
            stage_pairs(connection, contract, scratch, data.dev_share, data.seed)
        rules += validate(connection, contract, scratch)
    for contract in contracts:
        rules += validate_collection(connection, contract, scratch)
    for contract in contracts:
        measure_whole(connection, contract, last, scratch)
        rules += validate_whole(connection, contract)
    tallies = [count_rows(connection, contract) for contract in contracts if contract.table in SOURCE_TABLES]
    return tallies, with_offenders(connection, rules)


def load_contracts() -> list[Contract]:
    """The contracts of all tables. Raises NightshiftError for one that cannot be run as written."""
    try:
        return [load_contract(contract_file(table)) for table in TABLES]
    except ContractError as error:
        raise NightshiftError(f"data contract {error}") from error


def log_outcome(source: str, tallies: list[Tally], rules: list[RuleCount], first: Mapping[str, FirstFault]) -> None:
    """Log what became of the rows, the first refused row of each table, and every rule that something broke."""
    _log.info("source: %s", source)
    for one in tallies:
        _log.info("%s: %s", one.table, f"{one.read:,} read, {one.accepted:,} accepted, {one.quarantined:,} refused")
        if one.table in first:
            _log.warning("first refused row of %s: %s", one.table, first[one.table])
        if one.merged:
            _log.info("%d equal copies of %s merged: each has one row in the snapshot", one.merged, one.table)
        if one.not_relevant:
            _log.info("%d accepted qrels are judged not relevant: counted, never used as positives", one.not_relevant)
    for rule in rules:
        if rule.failed:
            _log.info("%s", _broken(rule))


def _broken(rule: RuleCount) -> str:
    """What broke a rule, and what is wrong with it."""
    found = "refused" if rule.severity == "error" else "warning for"
    rows = f"{rule.failed:,} of {rule.checked:,} {rule.table}"
    where = rows if rule.checked_rows else f"all {rule.table}, {rule.observed} where {rule.threshold} is required"
    return f"{found} {where}: {rule.description} ({rule.rule})"


def decide(
    tallies: list[Tally],
    rules: list[RuleCount],
    data: DataSettings,
    kept: Path,
    last: Snapshot | None,
    first: Mapping[str, FirstFault],
) -> None:
    """Stop a night whose tables have too many refused rows, or break a rule of severity error about a whole table.

    `kept` is where the quarantine of a stopped night will be, `first` the first refused row of each table.

    Raises BadInput for such tables.
    """
    for one in tallies:
        _hold_to_limit(one, rules, data.limit_of(one.table), kept, first)
    for rule in rules:
        if not rule.checked_rows and rule.severity == "error" and rule.failed:
            beside = f" (last snapshot: {last.digest})" if last else ""
            raise BadInput(
                f"{rule.table}: {rule.rule}: {rule.observed}, must be {rule.threshold}{beside}.\n"
                f"{rule.description.capitalize()}. If this is meant, run a night with NIGHTSHIFT_DATA__COMPARE=false, "
                f"or change the rule in data_contracts/{rule.table}.yaml."
            )


def _hold_to_limit(
    tally: Tally, rules: list[RuleCount], limit: float, kept: Path, first: Mapping[str, FirstFault]
) -> None:
    if tally.refused_share <= limit:
        return
    broken = [rule for rule in rules if ROWS_OF[rule.table] == tally.table and rule.severity == "error" and rule.failed]
    broken.sort(key=lambda rule: -rule.failed)
    lines = [f"  {rule.rule}: {rule.failed}, first {', '.join(rule.offenders)}" for rule in broken[:3]]
    raise BadInput(
        f"{tally.table}: {tally.quarantined} of {tally.read} rows refused ({tally.refused_share:.1%}); "
        f"[data] max_refused allows {limit:.1%}.\n"
        + "\n".join(lines)
        + f"\nThe first of them: {first[tally.table]}\nEvery refused row with its reason: "
        f"nightshift quarantine, or {kept / 'quarantine.parquet'}. Mend the source, or raise max_refused."
    )
