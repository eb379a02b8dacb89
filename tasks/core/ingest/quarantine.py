"""Writes the quarantine (refused rows with rule, place, and raw record), the rows with warnings, and the counts."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_contracts.contract import CLICKS, JUDGMENTS, SOURCE_TABLE_OF, Contract, Severity, contract_file
from tasks.core.base.duckdb_session import one_number, quoted
from tasks.core.base.files import write_json
from tasks.core.base.rule_count import RuleCount
from tasks.core.ingest.long_texts import LONG_COLUMNS, LongTextReader, long_texts, split_by_size
from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.rows import COLUMNS

if TYPE_CHECKING:
    import duckdb

QUARANTINE, WARNINGS, VALIDATION = "quarantine.parquet", "warnings.parquet", "validation.json"
_OFFENDERS = 3  # example rows per rule
_RECORD_CHARACTERS = 300  # shown characters of a raw record
_ROW_FIELDS = [
    ("table", pa.string()),
    ("file", pa.string()),
    ("row", pa.int64()),
    ("key", pa.string()),
    ("rule", pa.string()),
]
_REFUSED_SCHEMA = pa.schema([*_ROW_FIELDS, ("reason", pa.string()), ("record", pa.string())])
_VALUE_PREFIX = "value_"
_BATCH_ROWS = 4096  # refused rows in memory
_BATCH_BYTES = 16 * 2**20  # records in memory
_KEYS = {
    "passages": ("passage_id",),
    "queries": ("query_id",),
    "qrels": ("query_id", "passage_id", "split"),
    CLICKS: ("session", "time"),
    JUDGMENTS: ("passage_id",),
}


@dataclass(frozen=True)
class Tally:
    """Row counts of one table: `read` = `accepted` + `quarantined` + `forgotten`; `accepted` includes `merged`."""

    table: str
    read: int
    accepted: int
    quarantined: int
    not_relevant: int = 0  # accepted qrels with a score of 0 or less; they are not in the snapshot
    unsure: int = 0  # accepted pairs for training only, of held-out queries; they are not in the snapshot
    merged: int = 0  # accepted rows that equal an earlier row; the snapshot has one row for all of them
    forgotten: int = 0  # dropped before they were checked, because of `nightshift forget`

    @property
    def refused_share(self) -> float:
        """Return the share of rows that were quarantined; 0 for an empty table."""
        return self.quarantined / self.read if self.read else 0.0


class Refused(NamedTuple):
    """A refused row: its place, its key, the first rule that it broke, all reasons, and the start of its raw record."""

    table: str
    file: str
    row: int  # from 1: the line, or the position in the array
    key: str | None
    rule: str
    reason: str
    record: str | None


def write_quarantine(
    connection: duckdb.DuckDBPyConnection, folder: Path, scratch: Path, tables: Sequence[str]
) -> dict[str, FirstFault]:
    """Write `quarantine.parquet` and `warnings.parquet` into `folder`, ordered by table, file, and row.

    The quarantine has one line per refused row (table, file, row, key, rule, reason, record). A row that broke several
    rules has the first in `rule` and the reasons of all in `reason`. The warnings have one line per row and failed
    rule of severity warn or merge (table, file, row, key, rule), without the text.

    Returns the first refused row of each table that has any.
    """
    first: dict[str, FirstFault] = {}
    with pq.ParquetWriter(folder / QUARANTINE, _REFUSED_SCHEMA, compression="zstd") as writer:
        for table in tables:
            for batch in _refused_batches(connection, table, scratch):
                writer.write_batch(batch)
                if table not in first and batch.num_rows:
                    (row,) = batch.slice(0, 1).to_pylist()
                    first[table] = FirstFault(table, row["file"], row["row"], row["reason"], row["record"] or "")
    pairs_of_row_and_rule = " UNION ALL ".join(_warnings_query(table, place) for place, table in enumerate(tables))
    connection.execute(
        f'COPY (SELECT "table", file, row, key, rule FROM ({pairs_of_row_and_rule}) ORDER BY place, number, id) '
        f"TO {quoted(folder / WARNINGS)} (FORMAT parquet, COMPRESSION zstd)"
    )
    return first


def count_rows(connection: duckdb.DuckDBPyConnection, contract: Contract) -> Tally:
    """Count the read, accepted, quarantined, and merged rows of one table separately, and check that they add up."""
    table = contract.table
    read = one_number(connection, f"SELECT count(*) FROM {table}_staged")
    refused = f"SELECT DISTINCT row FROM failed WHERE source_table = '{table}' AND severity = '{Severity.ERROR}'"
    copies = f"SELECT DISTINCT row FROM failed WHERE source_table = '{table}' AND severity = '{Severity.MERGE}'"
    distinct = one_number(connection, f"SELECT count(*) FROM {table}_accepted")
    quarantined = one_number(connection, f"SELECT count(*) FROM ({refused})")
    merged = one_number(connection, f"SELECT count(*) FROM ({copies} EXCEPT {refused})")
    assert read == distinct + merged + quarantined, (table, read, distinct, merged, quarantined)
    zeros = "SELECT count(*) FROM qrels_accepted WHERE relevance <= 0"
    not_relevant = one_number(connection, zeros) if table == "qrels" else 0
    left_out = f"SELECT count(*) FROM {table}_accepted SEMI JOIN unsure_pairs USING (row)"
    unsure = one_number(connection, left_out) if table == "qrels" else 0
    return Tally(table, read, distinct + merged, quarantined, not_relevant, unsure, merged)


def with_offenders(connection: duckdb.DuckDBPyConnection, rules: list[RuleCount]) -> list[RuleCount]:
    """Return the counts, each with the share of failed rows and the first failed rows."""
    return [_add_offenders(connection, rule) if rule.checked_rows else rule for rule in rules]


def write_validation(tallies: list[Tally], rules: list[RuleCount], folder: Path) -> None:
    """Write `validation.json` into `folder`: rows per table, and every rule with its counts and first failed rows."""
    tables = {tally.table: {"contract": contract_file(tally.table).name, **asdict(tally)} for tally in tallies}
    write_json(folder / VALIDATION, {"tables": tables, "rules": [rule.model_dump() for rule in rules]})


def first_refused(folder: Path, most: int) -> list[Refused]:
    """Return the first `most` rows of a quarantine, in file order."""
    rows: list[Refused] = []
    with pq.ParquetFile(folder / QUARANTINE) as file:
        for group in range(file.num_row_groups):
            rows += _rows(file, group, range(min(most - len(rows), file.metadata.row_group(group).num_rows)))
            if len(rows) == most:
                break
    return rows


def refused_by_rule(folder: Path, most: int) -> dict[tuple[str, str], list[Refused]]:
    """Return (table, rule) -> the first `most` rows with that rule as their first broken rule."""
    rows: dict[tuple[str, str], list[Refused]] = defaultdict(list)
    seen: Counter[tuple[str, str]] = Counter()
    with pq.ParquetFile(folder / QUARANTINE) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group, ["table", "rule"])
            chosen = []
            for index, rule in enumerate(zip(columns["table"].to_pylist(), columns["rule"].to_pylist(), strict=True)):
                seen[rule] += 1
                if seen[rule] <= most:
                    chosen.append(index)
            for row in _rows(file, group, chosen):
                rows[row.table, row.rule].append(row)
    return rows


def _rows(file: pq.ParquetFile, group: int, places: Sequence[int]) -> list[Refused]:
    """Return rows of a row group (at most 16 MiB of records) with shortened records."""
    if not places:
        return []
    rows = file.read_row_group(group).take(pa.array(places))
    records = pc.utf8_slice_codeunits(rows["record"], 0, _RECORD_CHARACTERS)
    return [Refused(**row) for row in rows.set_column(rows.num_columns - 1, "record", records).to_pylist()]


def _add_offenders(connection: duckdb.DuckDBPyConnection, rule: RuleCount) -> RuleCount:
    if not rule.failed:
        return rule.model_copy(update={"observed": "0 %"})
    table = SOURCE_TABLE_OF[rule.table]
    offenders = connection.execute(
        f"SELECT file || ':' || line FROM {table}_staged WHERE row IN (SELECT f.row FROM failed f "
        "JOIN rules r ON r.id = f.rule WHERE r.table_name = ? AND r.name = ? ORDER BY f.row "
        f"LIMIT {_OFFENDERS}) ORDER BY row",
        [rule.table, rule.rule],
    ).fetchall()
    share = f"{rule.failed / rule.checked:.2%}"
    return rule.model_copy(update={"observed": share, "offenders": tuple(place for (place,) in offenders)})


def _refused_batches(connection: duckdb.DuckDBPyConnection, table: str, scratch: Path) -> Iterator[pa.RecordBatch]:
    """Stream the refused rows of a table in source order, with their records."""
    names = [name for name in COLUMNS[table] if name not in LONG_COLUMNS[table]]
    short = ", ".join(f"any_value(s.{name})::VARCHAR AS {_VALUE_PREFIX}{name}" for name in names)
    long = ", ".join(
        f"any_value(s.{name}_{part}) AS {name}_{part}" for name in LONG_COLUMNS[table] for part in ("at", "size")
    )
    sizes = " + ".join(f"coalesce(any_value(s.{name}_size), 0)" for name in LONG_COLUMNS[table])
    rows = connection.sql(f"""
        SELECT '{table}' AS "table", any_value(s.file) AS file, any_value(s.line) AS row,
               any_value({_key(table)}) AS key, arg_min(r.name, r.id) AS rule,
               string_agg(coalesce(r.reason, s.fault_detail), '; ' ORDER BY r.id)
                   || coalesce(any_value(' (first at ' || first.file || ':' || first.line || ')'), '') AS reason,
               any_value(s.form) AS form, {long}, {sizes} AS size, {short}
        FROM failed f JOIN rules r ON r.id = f.rule JOIN {table}_staged s ON s.row = f.row
        LEFT JOIN {table}_compared c ON c.row = f.row AND c.nth > 1
        LEFT JOIN {table}_staged first ON first.row = c.first_row
        WHERE f.source_table = '{table}' AND f.severity = '{Severity.ERROR}'
        GROUP BY s.row ORDER BY s.row""")
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(LongTextReader(long_texts(scratch, table, name))) for name in LONG_COLUMNS[table]
        }
        for batch in rows.to_arrow_reader(_BATCH_ROWS):
            for part in split_by_size(batch, "size", _BATCH_BYTES):
                columns = [part[name] for name in _REFUSED_SCHEMA.names[:-1]]
                yield pa.RecordBatch.from_arrays([*columns, _records(part, files)], schema=_REFUSED_SCHEMA)


def _records(rows: pa.RecordBatch, files: Mapping[str, LongTextReader]) -> pa.Array:
    """Return the raw records: as read, or rebuilt from the columns that `form` maps to field names."""
    long = {name: file.read(rows[f"{name}_at"], rows[f"{name}_size"]) for name, file in files.items()}
    texts = {name: column.cast(pa.string()).to_pylist() for name, column in long.items()}
    records = texts.pop("record")
    short = rows.select([name for name in rows.schema.names if name.startswith(_VALUE_PREFIX)]).to_pylist()
    for index, form in enumerate(rows["form"].to_pylist()):
        if form is not None:
            values = {name.removeprefix(_VALUE_PREFIX): value for name, value in short[index].items()}
            values |= {name: column[index] for name, column in texts.items()}
            fields = {field: name and values[name] for field, name in json.loads(form).items()}
            records[index] = json.dumps(fields, ensure_ascii=False)
    return pa.array(records, pa.string())


def _warnings_query(table: str, place: int) -> str:
    return f"""
        SELECT '{table}' AS "table", s.file, s.line AS row, {_key(table)} AS key, r.name AS rule, r.id,
               {place} AS place, s.row AS number
        FROM failed f JOIN rules r ON r.id = f.rule JOIN {table}_staged s ON s.row = f.row
        WHERE f.source_table = '{table}' AND f.severity <> '{Severity.ERROR}'"""


def _key(table: str) -> str:
    return f"coalesce(s.fault_key, concat_ws(' ', {', '.join(f's.{name}' for name in _KEYS[table])}))"
