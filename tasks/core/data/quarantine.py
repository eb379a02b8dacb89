"""What the contracts refused: written down with rule, place and raw text, counted, and held against the limit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_contracts.contract import Contract
from tasks.core.data.database import quoted
from tasks.core.files import write_json
from tasks.core.receipts import RuleCount

if TYPE_CHECKING:
    import duckdb

_EXAMPLES = 3


@dataclass(frozen=True)
class Tally:
    """The rows of one table: `read` = `accepted` + `quarantined`, exactly."""

    table: str
    read: int
    accepted: int
    quarantined: int
    not_relevant: int = 0  # of the accepted qrels, judged with a score of 0 or less: counted, kept out of the snapshot

    @property
    def refused_share(self) -> float:
        """Share of the rows read that went to quarantine; 0 for an empty table."""
        return self.quarantined / self.read if self.read else 0.0


def write_quarantine(connection: duckdb.DuckDBPyConnection, contracts: list[Contract], folder: Path) -> None:
    """Write `quarantine.parquet` into `folder`: one line for each refused row, ordered by table, file and row.

    A row that broke several rules names the first in `rule` and all of them in `reason`.
    """
    parts = " UNION ALL ".join(_refused(contract) for contract in contracts)
    columns = '"table", file, row, key, rule, reason, record'
    connection.execute(
        f"COPY (SELECT {columns} FROM ({parts}) ORDER BY place, number) TO {quoted(folder / 'quarantine.parquet')} "
        "(FORMAT parquet, COMPRESSION zstd)"
    )


def count_rows(connection: duckdb.DuckDBPyConnection, contract: Contract) -> Tally:
    """Count the rows of one table, each side on its own, and see that they add up."""
    table = contract.table
    read = _one(connection, f"SELECT count(*) FROM {table}_staged")
    accepted = _one(connection, f"SELECT count(*) FROM {table}_accepted")
    quarantined = _one(
        connection,
        f"SELECT count(DISTINCT row) FROM failed WHERE table_name = '{table}' AND severity = 'error'",
    )
    assert read == accepted + quarantined, (table, read, accepted, quarantined)
    negative = _one(connection, "SELECT count(*) FROM qrels_accepted WHERE relevance <= 0") if table == "qrels" else 0
    return Tally(table, read, accepted, quarantined, negative)


def write_validation(
    connection: duckdb.DuckDBPyConnection,
    contracts: list[Contract],
    tallies: list[Tally],
    rules: list[RuleCount],
    folder: Path,
) -> None:
    """Write `validation.json` into `folder`: rows per table, and every rule with its counts and first examples."""
    versions = {contract.table: contract.version for contract in contracts}
    tables = {
        one.table: {
            "contract": versions[one.table],
            "read": one.read,
            "accepted": one.accepted,
            "quarantined": one.quarantined,
            "not_relevant": one.not_relevant,
        }
        for one in tallies
    }
    lines = [{**rule.model_dump(), "examples": examples(connection, rule) if rule.failed else []} for rule in rules]
    write_json(folder / "validation.json", {"tables": tables, "rules": lines})


def examples(connection: duckdb.DuckDBPyConnection, rule: RuleCount) -> list[str]:
    """The first rows that broke `rule`, as file:row."""
    found = connection.execute(
        f"SELECT s.file || ':' || s.line FROM failed f JOIN {rule.table}_staged s USING (row) "
        f"WHERE f.table_name = ? AND f.rule = ? ORDER BY row LIMIT {_EXAMPLES}",
        [rule.table, rule.rule],
    ).fetchall()
    return [place for (place,) in found]


def _refused(contract: Contract) -> str:
    table, key = contract.table, ", ".join(f"s.{name}" for name in contract.key)
    return f"""
        SELECT '{table}' AS "table", any_value(s.file) AS file, any_value(s.line) AS row,
               any_value(coalesce(s.fault_key, concat_ws(' ', {key}))) AS key, arg_min(f.rule, f.place) AS rule,
               string_agg(f.reason, '; ' ORDER BY f.place)
                   || coalesce(any_value(' (first at ' || first.file || ':' || first.line || ')'), '') AS reason,
               any_value(s.record) AS record, {_place(table)} AS place, s.row AS number
        FROM failed f JOIN {table}_staged s ON s.row = f.row
        LEFT JOIN {table}_compared c ON c.row = f.row AND c.nth > 1
        LEFT JOIN {table}_staged first ON first.row = c.first_row
        WHERE f.table_name = '{table}' AND f.severity = 'error'
        GROUP BY s.row"""


def _place(table: str) -> int:
    return ("passages", "queries", "qrels").index(table)


def _one(connection: duckdb.DuckDBPyConnection, query: str) -> int:
    found = connection.execute(query).fetchone()
    assert found is not None
    return int(found[0])
