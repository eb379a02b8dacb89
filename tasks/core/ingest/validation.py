"""Checks staged rows against their contracts, and records which rows failed which rule.

Staging measured each row with a few small numbers. Great Expectations checks the distinct values of each measure that
it did not check before.
Python never holds texts or all rows in memory, and a million rows cost little more than a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_contracts.contract import Contract, ContractError, Rule, Severity
from data_contracts.measures import KEY, Kind, compared_sql
from tasks.core.base.duckdb_session import keep, one_number, quoted
from tasks.core.base.errors import NightshiftError
from tasks.core.base.rule_count import RuleCount
from tasks.core.ingest.known_results import (
    FAILS,
    UNKNOWN,
    add_results,
    create_results,
    find_results,
    has_results,
    numbers_at_limits,
)
from tasks.core.ingest.near_duplicates import find_near
from tasks.core.sources.rows import FAULTS, READABLE

if TYPE_CHECKING:
    import duckdb

_FRAME_ROWS = 250_000  # distinct values in one frame


def create_rule_tables(connection: duckdb.DuckDBPyConnection, contracts: list[Contract]) -> None:
    """Create the tables `rules` and `failed`.

    `rules` has the rules of the readers first, then those of the contract, per table. `failed` has one line per row and
    failed rule; `source_table` is the source table of the row.
    """
    connection.execute("CREATE TABLE failed (source_table VARCHAR, row BIGINT, rule INTEGER, severity VARCHAR)")
    connection.execute(
        "CREATE TABLE rules (id INTEGER, table_name VARCHAR, name VARCHAR, severity VARCHAR, reason VARCHAR)"
    )
    create_results(connection)
    add_rules(connection, contracts)


def add_rules(connection: duckdb.DuckDBPyConnection, contracts: list[Contract]) -> None:
    """Add the rules of more contracts to the table `rules`."""
    rules: list[tuple[str, str, str, str | None]] = []
    for contract in contracts:
        rules += [(contract.table, fault, "error", None) for fault in FAULTS.get(contract.table, ())]
        rules += [(contract.table, rule.name, rule.severity, rule.description) for rule in contract.rules]
    first = one_number(connection, "SELECT count(*) FROM rules")
    connection.executemany(
        "INSERT INTO rules VALUES (?, ?, ?, ?, ?)", [(number, *rule) for number, rule in enumerate(rules, first)]
    )


def validate(connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path) -> list[RuleCount]:
    """Check the rows of `<table>_staged` and `<table>_measured`, and add the failed rows to the table `failed`.

    Creates the view `<table>_accepted`. Row rules run first. Table rules see only the rows that passed them: a broken
    first copy must not make its correct repetition fail.

    Returns one count per rule, those of the readers first.

    Raises NightshiftError when a rule cannot be run.
    """
    table = contract.table
    counts = _reader_counts(connection, table) if table in FAULTS else []
    row_rules, compared = contract.rules_of_kind(Kind.ROW), contract.rules_of_kind(Kind.TABLE)
    counts += _check_and_count(connection, contract, row_rules, f"{table}_measured")
    for name in ("passed", "accepted"):  # the same rows; `accepted` is final when validate returns
        connection.execute(f"CREATE VIEW {table}_{name} AS SELECT * FROM {_passed(contract, 'staged')}")
    _find_repeated_keys(connection, contract)
    for subject in {rule.measured.subject for rule in compared if rule.measured.measure == "nearness"}:
        find_near(connection, table, subject, scratch)
    for subject in {rule.measured.subject for rule in compared if rule.measured.measure == "copies"}:
        _find_repeated_hashes(connection, table, subject)
    _compare_rows(connection, contract, compared, scratch / f"{table}_compared.parquet")
    return counts + _check_and_count(connection, contract, compared, f"{table}_comparisons")


def validate_collection(connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path) -> list[RuleCount]:
    """Check the collection rules, after all tables were read. These rules only warn."""
    rules = contract.rules_of_kind(Kind.COLLECTION)
    if not rules:
        return []
    _compare_rows(connection, contract, rules, scratch / f"{contract.table}_collected.parquet")
    return _check_and_count(connection, contract, rules, f"{contract.table}_comparisons")


def validate_aggregates(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[RuleCount]:
    """Check the aggregate measures in the view `<table>_aggregates`. A null measure counts as not checked."""
    rules, view = contract.rules_of_kind(Kind.AGGREGATE), f"{contract.table}_aggregates"
    if not rules:
        return []
    bad = _failed_values(connection, contract, rules, view)
    (figures,) = connection.sql(f"SELECT * FROM {view}").to_arrow_table().to_pylist()
    counts = []
    for rule in rules:
        value = figures[rule.measured.column]
        counts.append(
            RuleCount(
                table=contract.table, rule=rule.name, severity=rule.severity, checked=int(value is not None),
                failed=len(bad[rule.name]), checked_rows=False, threshold=rule.threshold, description=rule.description,
                statement=rule.statement,
                observed="nothing to compare" if value is None else f"{rule.measured.measure} {value:.4g}",
            )
        )  # fmt: skip
    return counts


def _passed(contract: Contract, rows: str) -> str:
    refused = f"SELECT row FROM failed WHERE source_table = '{contract.source_table}' AND severity <> '{Severity.WARN}'"
    return f"{contract.table}_{rows} ANTI JOIN ({refused}) USING (row)"


def _reader_counts(connection: duckdb.DuckDBPyConnection, table: str) -> list[RuleCount]:
    connection.execute(
        f"INSERT INTO failed SELECT '{table}', row, r.id, '{Severity.ERROR}' FROM {table}_staged s "
        f"JOIN rules r ON r.name = s.fault AND r.table_name = '{table}'"
    )
    faults = dict(connection.execute(f"SELECT fault, count(*) FROM {table}_staged GROUP BY fault").fetchall())
    if unknown := set(faults) - {None, *FAULTS[table]}:
        raise NightshiftError(f"{table}: the reader reported undeclared faults: {', '.join(unknown)}")
    return [
        RuleCount(
            table=table, rule=rule, severity=Severity.ERROR, checked=sum(faults.values()), failed=faults.get(rule, 0),
            threshold="readable", description="the line cannot be read as a row",
            statement=READABLE.get(rule, rule.replace("_", " ")),
        )
        for rule in FAULTS[table]
    ]  # fmt: skip


def _find_repeated_keys(connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """Create the table `<table>_compared`: the rows whose key occurs more than once, with the first row of that key."""
    table = contract.table
    _find_repeated_hashes(connection, table, KEY)
    connection.execute(f"""
        CREATE TABLE {table}_compared AS
        SELECT row, row_number() OVER same AS nth, {KEY}_content AS content,
               first_value(row) OVER same AS first_row, first_value({KEY}_content) OVER same AS first_content
        FROM {table}_passed JOIN {table}_{KEY}_again USING (row)
        WINDOW same AS (PARTITION BY {", ".join(contract.key)} ORDER BY row)""")


def _find_repeated_hashes(connection: duckdb.DuckDBPyConnection, table: str, subject: str) -> None:
    """Create the table of rows that share a hash. It is small: DuckDB can join it without all rows in memory."""
    connection.execute(f"""
        CREATE TEMP TABLE {table}_{subject}_again AS SELECT row FROM {table}_measured
        WHERE {subject}_hash IN (
            SELECT {subject}_hash FROM {table}_measured GROUP BY {subject}_hash HAVING count(*) > 1)""")


def _compare_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], file: Path) -> None:
    """Compute the measures of `rules`, which compare rows, on the rows that passed so far, and write them to `file`."""
    table = contract.table
    joins, columns = "", {}
    for number, measured in enumerate({rule.measured.column: rule.measured for rule in rules}.values()):
        default, query = compared_sql(measured, table)
        joins += f" LEFT JOIN ({query}) j{number} USING (row)"
        columns[measured.column] = f"coalesce(j{number}.value, {default})"
    passed = f"SELECT row FROM {_passed(contract, 'measured')}"
    _create_file_view(
        connection, f"SELECT {_select_list(columns)} FROM ({passed}){joins}", f"{table}_comparisons", file
    )


def _create_file_view(connection: duckdb.DuckDBPyConnection, query: str, view: str, file: Path) -> None:
    keep(connection, query, file)
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM read_parquet({quoted(file)})")


def _select_list(columns: Mapping[str, str]) -> str:
    return ", ".join(["row", *(f"{expression} AS {name}" for name, expression in columns.items())])


def _check_and_count(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str
) -> list[RuleCount]:
    """Check `rules` on the columns of `view`, add the failed rows to `failed`, and return the counts."""
    checked = one_number(connection, f"SELECT count(*) FROM {view}")
    bad = _failed_values(connection, contract, rules, view)
    counts = []
    for rule in rules:
        failed = _record(connection, contract, rule, view, bad[rule.name])
        counts.append(
            RuleCount(
                table=contract.table, rule=rule.name, severity=rule.severity, checked=checked, failed=failed,
                threshold=rule.threshold, description=rule.description, statement=rule.statement,
            )
        )  # fmt: skip
    return counts


def _failed_values(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str
) -> dict[str, pa.Array]:
    try:
        return _find_failed_values(connection, contract, rules, view)
    except ContractError as error:
        raise NightshiftError(f"data contract {error}\nFix the file. No row was accepted.") from error


def _find_failed_values(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str
) -> dict[str, pa.Array]:
    """Return the values in `view` that fail each rule. Great Expectations checks those without a known result."""
    columns = {rule.measured.column: [other for other in rules if other.measured == rule.measured] for rule in rules}
    checked: dict[str, Any] = {}  # by column: values without a known result, and numbers at the limits of its rules
    new: dict[str, Any] = {}
    bad: dict[str, pa.Array] = {}
    for name, rules_of_column in columns.items():
        values = connection.sql(f"SELECT DISTINCT {name} FROM {view}").to_arrow_table().column(0).combine_chunks()
        results = np.array([find_results(connection, rule, values) for rule in rules_of_column])
        unknown = (results == UNKNOWN).any(axis=0)
        for rule, known in zip(rules_of_column, results, strict=True):
            bad[rule.name] = values.filter(pa.array((known == FAILS) & ~unknown))
        new[name] = values.filter(pa.array(unknown))
        checked[name] = pa.concat_arrays([new[name], numbers_at_limits(rules_of_column, values)])
    if not any(map(len, new.values())) and all(has_results(connection, rule) for rule in rules):
        return bad
    failed = _check_values(contract, rules, checked)
    for rule in rules:
        name = rule.measured.column
        add_results(connection, rule, checked[name], failed[rule.name])
        measured = pc.is_in(failed[rule.name], value_set=new[name])  # not only a number at a limit
        bad[rule.name] = pa.concat_arrays([bad[rule.name], failed[rule.name].filter(measured)])
    return bad


def _check_values(contract: Contract, rules: list[Rule], values: Mapping[str, Any]) -> dict[str, pa.Array]:
    """Return the values of each column that fail each rule, as Great Expectations decides."""
    from data_contracts.judge import compile_rules

    compile_rules(contract, rules)  # detects a wrong rule even if no value reaches it
    bad: dict[str, list[pa.Array]] = {rule.name: [] for rule in rules}
    for start in range(0, max(map(len, values.values()), default=0), _FRAME_ROWS):
        batch = {name: column.slice(start, _FRAME_ROWS) for name, column in values.items() if len(column) > start}
        covered = [rule for rule in rules if rule.measured.column in batch]
        for name, failed in _check_batch(contract, covered, batch).items():
            bad[name].append(failed)
    types = {rule.name: values[rule.measured.column].type for rule in rules}
    return {name: pa.concat_arrays([pa.array([], types[name]), *failed]) for name, failed in bad.items()}


def _check_batch(contract: Contract, rules: list[Rule], batch: Mapping[str, Any]) -> dict[str, pa.Array]:
    """Check columns of different lengths in one frame.

    A short column is padded with its first value; failures in the padding are dropped.
    """
    import pandas as pd

    from data_contracts.judge import check_values, compile_rules

    height = max(map(len, batch.values()))
    places = {name: [*range(len(column)), *[0] * (height - len(column))] for name, column in batch.items()}
    frame = pd.DataFrame({name: column.take(pa.array(places[name])).to_pandas() for name, column in batch.items()})
    failed = check_values(compile_rules(contract, rules), frame.rename_axis("row"))
    failed_values = {}
    for rule in rules:
        column = batch[rule.measured.column]
        rows = [row for row in failed[rule.name] if row < len(column)]
        failed_values[rule.name] = column.take(pa.array(rows, pa.int64()))
    return failed_values


def _record(connection: duckdb.DuckDBPyConnection, contract: Contract, rule: Rule, view: str, bad: pa.Array) -> int:
    """Add every row whose value is in `bad` to the table `failed`, and return their number."""
    if not len(bad):
        return 0
    connection.register("bad_values", pa.table([bad], names=["value"]))
    column = rule.measured.column
    added = one_number(
        connection,
        f"INSERT INTO failed SELECT '{contract.source_table}', v.row, r.id, r.severity FROM {view} v "
        f"JOIN bad_values b ON v.{column} IS NOT DISTINCT FROM b.value "
        "JOIN rules r ON r.table_name = ? AND r.name = ?",
        [contract.table, rule.name],
    )
    connection.unregister("bad_values")
    return added
