"""Holds staged rows against their contracts and says, row by row, what failed.

Each row was measured into a few small numbers when it was staged; Great Expectations judges the distinct values of each
of them; so neither texts nor all rows are ever in Python's memory, and a million rows cost little more than a thousand.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from data_contracts.contract import Contract, ContractError, Rule
from data_contracts.measures import KEY, Kind, compared_sql
from tasks.core.base.duckdb_session import keep, one_number, quoted
from tasks.core.base.errors import NightshiftError
from tasks.core.base.receipts import RuleCount
from tasks.core.ingest.near_duplicates import find_near
from tasks.core.sources.rows import FAULTS, READABLE

if TYPE_CHECKING:
    import duckdb

_AT_ONCE = 250_000  # distinct values in one frame


def prepare(connection: duckdb.DuckDBPyConnection, contracts: list[Contract]) -> None:
    """Create the tables `rules` (`place`: rank in the contract, the reader's own first) and `failed`.

    `failed` has one line for each rule that a row broke; `rows_of` names the table of the source that the row is of.
    """
    connection.execute("CREATE TABLE failed (rows_of VARCHAR, row BIGINT, rule INTEGER, severity VARCHAR)")
    connection.execute(
        "CREATE TABLE rules (id INTEGER, table_name VARCHAR, name VARCHAR, severity VARCHAR, reason VARCHAR)"
    )
    named: list[tuple[str, str, str, str | None]] = []
    for contract in contracts:
        named += [(contract.table, fault, "error", None) for fault in FAULTS.get(contract.table, ())]
        named += [(contract.table, rule.name, rule.severity, rule.description) for rule in contract.rules]
    connection.executemany("INSERT INTO rules VALUES (?, ?, ?, ?, ?)", [(n, *one) for n, one in enumerate(named)])


def validate(connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path) -> list[RuleCount]:
    """Judge the rows of the views `<table>_staged` and `<table>_measured`; add what failed to `failed`.

    Creates the view `<table>_accepted`.

    Rules about single rows come first. Rules that compare rows see only rows that passed them, so that a broken
    first copy never costs its good repetition. Returns one count per rule, the reader's own rules first.
    Raises NightshiftError when a rule cannot be run: no answer is not "no bad rows".
    """
    table = contract.table
    counts = _reader_counts(connection, table) if table in FAULTS else []
    alone, compared = contract.of_kind(Kind.ROW), contract.of_kind(Kind.COMPARED)
    counts += _judged(connection, contract, alone, f"{table}_measured")
    for name in ("passed", "accepted"):  # the same rows: `accepted` is complete only when validate returns
        connection.execute(f"CREATE VIEW {table}_{name} AS SELECT * FROM {_passed(contract, 'staged')}")
    _find_repeated_keys(connection, contract)
    for of in {rule.measured.of for rule in compared if rule.measured.measure == "nearness"}:
        find_near(connection, table, of, scratch)
    for of in {rule.measured.of for rule in compared if rule.measured.measure == "copies"}:
        _find_again(connection, table, of)
    _compare_rows(connection, contract, compared, scratch / f"{table}_compared.parquet")
    return counts + _judged(connection, contract, compared, f"{table}_comparisons")


def validate_collection(connection: duckdb.DuckDBPyConnection, contract: Contract, scratch: Path) -> list[RuleCount]:
    """Judge what can be known only when every table was read. These rules warn."""
    rules = contract.of_kind(Kind.COLLECTION)
    if not rules:
        return []
    _compare_rows(connection, contract, rules, scratch / f"{contract.table}_collected.parquet")
    return _judged(connection, contract, rules, f"{contract.table}_comparisons")


def validate_whole(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[RuleCount]:
    """Judge the figures in the view `<table>_whole`, which stand for no row. A figure that is null is not judged."""
    rules, view = contract.of_kind(Kind.WHOLE), f"{contract.table}_whole"
    if not rules:
        return []
    bad = _judge(connection, contract, rules, view)
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
    refused = f"SELECT row FROM failed WHERE rows_of = '{contract.rows_of}' AND severity <> 'warn'"
    return f"{contract.table}_{rows} ANTI JOIN ({refused}) USING (row)"


def _reader_counts(connection: duckdb.DuckDBPyConnection, table: str) -> list[RuleCount]:
    connection.execute(
        f"INSERT INTO failed SELECT '{table}', row, r.id, 'error' FROM {table}_staged s "
        f"JOIN rules r ON r.name = s.fault AND r.table_name = '{table}'"
    )
    faults = dict(connection.execute(f"SELECT fault, count(*) FROM {table}_staged GROUP BY fault").fetchall())
    if unknown := set(faults) - {None, *FAULTS[table]}:
        raise NightshiftError(f"{table}: the reader found faults that it does not declare: {', '.join(unknown)}")
    return [
        RuleCount(
            table=table, rule=rule, severity="error", checked=sum(faults.values()), failed=faults.get(rule, 0),
            threshold="readable", description="the line cannot be read as a row",
            statement=READABLE.get(rule, rule.replace("_", " ")),
        )
        for rule in FAULTS[table]
    ]  # fmt: skip


def _find_repeated_keys(connection: duckdb.DuckDBPyConnection, contract: Contract) -> None:
    """The rows whose key occurs again, each beside the first one of its key."""
    table = contract.table
    _find_again(connection, table, KEY)
    connection.execute(f"""
        CREATE TABLE {table}_compared AS
        SELECT row, row_number() OVER same AS nth, {KEY}_content AS content,
               first_value(row) OVER same AS first_row, first_value({KEY}_content) OVER same AS first_content
        FROM {table}_passed JOIN {table}_{KEY}_again USING (row)
        WINDOW same AS (PARTITION BY {", ".join(contract.key)} ORDER BY row)""")


def _find_again(connection: duckdb.DuckDBPyConnection, table: str, of: str) -> None:
    """The rows that share a hash, as a table: knowing that they are few, DuckDB does not hold those of all."""
    connection.execute(f"""
        CREATE TEMP TABLE {table}_{of}_again AS SELECT row FROM {table}_measured
        WHERE {of}_hash IN (SELECT {of}_hash FROM {table}_measured GROUP BY {of}_hash HAVING count(*) > 1)""")


def _compare_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], file: Path) -> None:
    """The measures that need other rows, of the rows that passed so far, in a file."""
    table = contract.table
    joins, columns = "", {}
    for number, measured in enumerate({rule.measured.column: rule.measured for rule in rules}.values()):
        others, query = compared_sql(measured, table)
        joins += f" LEFT JOIN ({query}) j{number} USING (row)"
        columns[measured.column] = f"coalesce(j{number}.value, {others})"
    every = f"SELECT row FROM {_passed(contract, 'measured')}"
    _keep(connection, f"SELECT {_listed(columns)} FROM ({every}){joins}", f"{table}_comparisons", file)


def _keep(connection: duckdb.DuckDBPyConnection, query: str, view: str, file: Path) -> None:
    keep(connection, query, file)
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM read_parquet({quoted(file)})")


def _listed(columns: Mapping[str, str]) -> str:
    return ", ".join(["row", *(f"{expression} AS {name}" for name, expression in columns.items())])


def _judged(connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str) -> list[RuleCount]:
    """Judge `rules` over the columns of `view`; add the rows that failed to `failed`; count them."""
    checked = one_number(connection, f"SELECT count(*) FROM {view}")
    bad = _judge(connection, contract, rules, view)
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


def _judge(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str
) -> dict[str, pa.Array]:
    try:
        return _bad_values(connection, contract, rules, view)
    except ContractError as error:
        raise NightshiftError(f"data contract {error}\nMend the file; nothing was accepted.") from error


def _bad_values(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], view: str
) -> dict[str, pa.Array]:
    """The values that fail each rule, of those that its column has in `view`."""
    from data_contracts.judge import compile_rules

    compile_rules(contract, rules)  # all of them first, so that a wrong one is noticed on any data
    columns = {rule.measured.column: None for rule in rules}
    values: dict[str, Any] = {
        name: connection.sql(f"SELECT DISTINCT {name} FROM {view}").to_arrow_table().column(0).combine_chunks()
        for name in columns
    }
    bad: dict[str, list[pa.Array]] = {rule.name: [] for rule in rules}
    for start in range(0, max(map(len, values.values()), default=0), _AT_ONCE):
        slices = {name: column.slice(start, _AT_ONCE) for name, column in values.items() if len(column) > start}
        asked = [rule for rule in rules if rule.measured.column in slices]
        for name, found in _judged_slices(contract, asked, slices).items():
            bad[name].append(found)
    types = {rule.name: values[rule.measured.column].type for rule in rules}
    return {name: pa.concat_arrays([pa.array([], types[name]), *found]) for name, found in bad.items()}


def _judged_slices(contract: Contract, rules: list[Rule], slices: Mapping[str, Any]) -> dict[str, pa.Array]:
    """Put columns of different lengths side by side in one frame, and judge it.

    A short column is filled up with its first value; what fails below its end is left out again.
    """
    import pandas as pd

    from data_contracts.judge import compile_rules, judge

    height = max(map(len, slices.values()))
    places = {name: [*range(len(column)), *[0] * (height - len(column))] for name, column in slices.items()}
    frame = pd.DataFrame({name: column.take(pa.array(places[name])).to_pandas() for name, column in slices.items()})
    failed = judge(compile_rules(contract, rules), frame.rename_axis("row"))
    found = {}
    for rule in rules:
        column = slices[rule.measured.column]
        found[rule.name] = column.take(pa.array([row for row in failed[rule.name] if row < len(column)], pa.int64()))
    return found


def _record(connection: duckdb.DuckDBPyConnection, contract: Contract, rule: Rule, view: str, bad: pa.Array) -> int:
    """Add every row whose value is among `bad` to `failed`; return how many they are."""
    if not len(bad):
        return 0
    connection.register("bad_values", pa.table([bad], names=["value"]))
    column = rule.measured.column
    added = one_number(
        connection,
        f"INSERT INTO failed SELECT '{contract.rows_of}', v.row, r.id, r.severity FROM {view} v "
        f"JOIN bad_values b ON v.{column} IS NOT DISTINCT FROM b.value "
        "JOIN rules r ON r.table_name = ? AND r.name = ?",
        [contract.table, rule.name],
    )
    connection.unregister("bad_values")
    return added
