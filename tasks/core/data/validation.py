"""Holds staged rows against their contracts and says, row by row, what failed.

DuckDB measures each row into a few small numbers; Great Expectations judges those, some 100,000 rows at a time;
so neither texts nor all rows are ever in Python's memory together (route measured: 4-5 s for a million passages).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import Contract, ContractError, Rule
from data_contracts.measures import row_sql, table_sql
from tasks.core.data.rows import FAULTS
from tasks.core.errors import NightshiftError
from tasks.core.receipts import RuleCount

if TYPE_CHECKING:
    import duckdb

_FRAME_ROWS = 250_000
_FAILED = pa.schema([("row", pa.int64()), ("rule", pa.string())])


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table `failed`: one line for each rule that a row broke (`place`: the rule's rank in its contract)."""
    connection.execute(
        "CREATE TABLE failed (table_name VARCHAR, row BIGINT, rule VARCHAR, severity VARCHAR, place INTEGER, "
        "reason VARCHAR)"
    )


def validate(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[RuleCount]:
    """Judge the rows of the view `<table>_staged`; add what failed to `failed`; create the view `<table>_accepted`.

    Rules about single rows come first. Rules that compare rows see only rows that passed them, so that a broken
    first copy never costs its good repetition. Returns one count per rule, the reader's own rules first.
    Raises NightshiftError when a rule cannot be run: no answer is not "no bad rows".
    """
    table = contract.table
    counts = _reader_counts(connection, table)
    alone = [rule for rule in contract.rules if not rule.measured.of_a_table]
    compared = [rule for rule in contract.rules if rule.measured.of_a_table]
    try:
        counts += _run(connection, contract, alone, _rows_alone(contract, alone))
        connection.execute(f"CREATE TABLE {table}_compared AS {_rows_compared(contract)}")
        counts += _run(connection, contract, compared, _measures_compared(contract, compared))
    except ContractError as error:
        raise NightshiftError(f"data contract {error}\nMend the file; nothing was accepted.") from error
    connection.execute(f"CREATE VIEW {table}_accepted AS SELECT * FROM {table}_staged WHERE {_passed(table)}")
    return counts


def _passed(table: str) -> str:
    return f"row NOT IN (SELECT row FROM failed WHERE table_name = '{table}' AND severity = 'error')"


def _reader_counts(connection: duckdb.DuckDBPyConnection, table: str) -> list[RuleCount]:
    connection.execute(
        f"INSERT INTO failed SELECT '{table}', row, fault, 'error', -1, fault_detail FROM {table}_staged "
        "WHERE fault IS NOT NULL"
    )
    found = connection.execute(f"SELECT count(*), count(fault) FROM {table}_staged").fetchone()
    assert found is not None
    faults = dict(connection.execute(f"SELECT fault, count(*) FROM {table}_staged GROUP BY fault").fetchall())
    return [
        RuleCount(table=table, rule=rule, severity="error", checked=found[0], failed=faults.get(rule, 0))
        for rule in FAULTS[table]
    ]


def _rows_alone(contract: Contract, rules: Sequence[Rule]) -> str:
    columns = {rule.measured.column: row_sql(rule.measured, contract.foreign.get(rule.measured.of)) for rule in rules}
    return f"SELECT {_listed(columns)} FROM {contract.table}_staged WHERE fault IS NULL"


def _rows_compared(contract: Contract) -> str:
    """Each remaining row beside the first one of its key."""
    content = ", ".join(name for name in contract.properties if name not in contract.key)
    return f"""
        SELECT row, {", ".join(contract.key)}, hash({content}) AS content, row_number() OVER same AS nth,
               first_value(row) OVER same AS first_row, first_value(hash({content})) OVER same AS first_content
        FROM {contract.table}_staged WHERE {_passed(contract.table)}
        WINDOW same AS (PARTITION BY {", ".join(contract.key)} ORDER BY row)"""


def _measures_compared(contract: Contract, rules: Sequence[Rule]) -> str:
    columns = {rule.measured.column: table_sql(rule.measured) for rule in rules}
    return f"SELECT {_listed(columns)} FROM {contract.table}_compared"


def _listed(columns: dict[str, str]) -> str:
    return ", ".join(["row", *(f"{expression} AS {name}" for name, expression in columns.items())])


def _run(
    connection: duckdb.DuckDBPyConnection, contract: Contract, rules: list[Rule], measured: str
) -> list[RuleCount]:
    from data_contracts.judge import compile_rules, judge

    suite = compile_rules(contract, rules)
    failed = dict.fromkeys((rule.name for rule in rules), 0)
    checked = 0
    bad: list[tuple[int, str]] = []
    for batch in connection.sql(measured).to_arrow_reader(_FRAME_ROWS):
        checked += batch.num_rows
        for name, rows in judge(suite, batch.to_pandas().set_index("row")).items():
            failed[name] += len(rows)
            bad += [(row, name) for row in rows]
    _record(connection, contract, bad)
    return [
        RuleCount(
            table=contract.table, rule=rule.name, severity=rule.severity, checked=checked, failed=failed[rule.name]
        )
        for rule in rules
    ]


def _record(connection: duckdb.DuckDBPyConnection, contract: Contract, bad: list[tuple[int, str]]) -> None:
    rules = pa.table(
        {
            "rule": [rule.name for rule in contract.rules],
            "severity": [rule.severity for rule in contract.rules],
            "place": pa.array(range(len(contract.rules)), pa.int32()),
            "reason": [rule.description for rule in contract.rules],
        }
    )
    lines = pa.table({"row": [row for row, _ in bad], "rule": [name for _, name in bad]}, schema=_FAILED)
    connection.register("new_rules", rules)
    connection.register("new_lines", lines)
    connection.execute(
        f"INSERT INTO failed SELECT '{contract.table}', row, rule, severity, place, reason "
        "FROM new_lines JOIN new_rules USING (rule)"
    )
    connection.unregister("new_lines")
    connection.unregister("new_rules")
