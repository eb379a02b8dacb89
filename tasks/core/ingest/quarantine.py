"""What the contracts refused: counted, and written down with rule, place and raw text. And what they pointed at."""

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

from data_contracts.contract import MERGE, ROWS_OF, Contract, contract_file
from tasks.core.base.duckdb_session import one_number, quoted
from tasks.core.base.files import write_json
from tasks.core.base.receipts import RuleCount
from tasks.core.ingest.long_texts import LONG, LongTextReader, long_texts, split_by_size
from tasks.core.sources.first_fault import FirstFault
from tasks.core.sources.rows import COLUMNS

if TYPE_CHECKING:
    import duckdb

SOURCE_TABLES = tuple(dict.fromkeys(ROWS_OF.values()))  # those that have rows of their own
QUARANTINE, WARNINGS, VALIDATION = "quarantine.parquet", "warnings.parquet", "validation.json"
_EXAMPLES = 3
_SHOWN = 300  # characters of a raw record
_LINE = [
    ("table", pa.string()),
    ("file", pa.string()),
    ("row", pa.int64()),
    ("key", pa.string()),
    ("rule", pa.string()),
]
_REFUSED = pa.schema([*_LINE, ("reason", pa.string()), ("record", pa.string())])
_VALUE = "value_"
_AT_ONCE = 4096  # refused rows in memory
_AT_ONCE_BYTES = 16 * 2**20  # of their records
_KEYS = {"passages": ("passage_id",), "queries": ("query_id",), "qrels": ("query_id", "passage_id", "split")}


@dataclass(frozen=True)
class Tally:
    """The rows of one table: `read` = `accepted` + `quarantined`, exactly; `accepted` includes `merged`."""

    table: str
    read: int
    accepted: int
    quarantined: int
    not_relevant: int = 0  # of the accepted qrels, judged with a score of 0 or less: counted, kept out of the snapshot
    merged: int = 0  # of the accepted, equal copies of an earlier row: the snapshot has one row for all of them

    @property
    def refused_share(self) -> float:
        """Share of the rows read that went to quarantine; 0 for an empty table."""
        return self.quarantined / self.read if self.read else 0.0


class Refused(NamedTuple):
    """A refused row: where it is, its key, the first rule that it broke, all reasons, the start of its raw record."""

    table: str
    file: str
    row: int  # from 1: the line, or the place in the array
    key: str | None
    rule: str
    reason: str
    record: str | None


def write_quarantine(connection: duckdb.DuckDBPyConnection, folder: Path, scratch: Path) -> dict[str, FirstFault]:
    """Write `quarantine.parquet` and `warnings.parquet` into `folder`, ordered by table, file and row.

    The first has one line for each refused row (table, file, row, key, rule, reason, record): a row that broke several
    rules names the first in `rule` and all of them in `reason`. The second has one line for each rule that an accepted
    or refused row was pointed at by (table, file, row, key, rule), without its text. An equal copy is such a row.

    Returns the first refused row of each table that has any.
    """
    first: dict[str, FirstFault] = {}
    with pq.ParquetWriter(folder / QUARANTINE, _REFUSED, compression="zstd") as writer:
        for table in SOURCE_TABLES:
            for batch in _refused(connection, table, scratch):
                writer.write_batch(batch)
                if table not in first and batch.num_rows:
                    (row,) = batch.slice(0, 1).to_pylist()
                    first[table] = FirstFault(table, row["file"], row["row"], row["reason"], row["record"])
    pointed = " UNION ALL ".join(_pointed(table) for table in SOURCE_TABLES)
    connection.execute(
        f'COPY (SELECT "table", file, row, key, rule FROM ({pointed}) ORDER BY place, number, id) '
        f"TO {quoted(folder / WARNINGS)} (FORMAT parquet, COMPRESSION zstd)"
    )
    return first


def count_rows(connection: duckdb.DuckDBPyConnection, contract: Contract) -> Tally:
    """Count the rows of one table, each side on its own, and see that they add up."""
    table = contract.table
    read = one_number(connection, f"SELECT count(*) FROM {table}_staged")
    refused = f"SELECT DISTINCT row FROM failed WHERE rows_of = '{table}' AND severity = 'error'"
    copies = f"SELECT DISTINCT row FROM failed WHERE rows_of = '{table}' AND severity = '{MERGE}'"
    distinct = one_number(connection, f"SELECT count(*) FROM {table}_accepted")
    quarantined = one_number(connection, f"SELECT count(*) FROM ({refused})")
    merged = one_number(connection, f"SELECT count(*) FROM ({copies} EXCEPT {refused})")
    assert read == distinct + merged + quarantined, (table, read, distinct, merged, quarantined)
    zeros = "SELECT count(*) FROM qrels_accepted WHERE relevance <= 0"
    not_relevant = one_number(connection, zeros) if table == "qrels" else 0
    return Tally(table, read, distinct + merged, quarantined, not_relevant, merged)


def with_offenders(connection: duckdb.DuckDBPyConnection, rules: list[RuleCount]) -> list[RuleCount]:
    """The counts, each with the share that failed and the first rows that did."""
    return [_with_offenders(connection, rule) if rule.checked_rows else rule for rule in rules]


def write_validation(tallies: list[Tally], rules: list[RuleCount], folder: Path) -> None:
    """Write `validation.json` into `folder`: rows per table, and every rule with its counts and first offenders."""
    tables = {one.table: {"contract": contract_file(one.table).name, **asdict(one)} for one in tallies}
    write_json(folder / VALIDATION, {"tables": tables, "rules": [rule.model_dump() for rule in rules]})


def first_refused(folder: Path, most: int) -> list[Refused]:
    """The first `most` rows of a quarantine, in its order."""
    rows: list[Refused] = []
    with pq.ParquetFile(folder / QUARANTINE) as file:
        for group in range(file.num_row_groups):
            rows += _rows(file, group, range(min(most - len(rows), file.metadata.row_group(group).num_rows)))
            if len(rows) == most:
                break
    return rows


def refused_by_rule(folder: Path, most: int) -> dict[tuple[str, str], list[Refused]]:
    """(table, rule) -> the first `most` rows whose first broken rule it is."""
    rows: dict[tuple[str, str], list[Refused]] = defaultdict(list)
    seen: Counter[tuple[str, str]] = Counter()
    with pq.ParquetFile(folder / QUARANTINE) as file:
        for group in range(file.num_row_groups):
            columns = file.read_row_group(group, ["table", "rule"])
            chosen = []
            for place, rule in enumerate(zip(columns["table"].to_pylist(), columns["rule"].to_pylist(), strict=True)):
                seen[rule] += 1
                if seen[rule] <= most:
                    chosen.append(place)
            for row in _rows(file, group, chosen):
                rows[row.table, row.rule].append(row)
    return rows


def _rows(file: pq.ParquetFile, group: int, places: Sequence[int]) -> list[Refused]:
    """Some rows of a row group, which has at most 16 MiB of records; their records are shortened."""
    if not places:
        return []
    rows = file.read_row_group(group).take(pa.array(places))
    records = pc.utf8_slice_codeunits(rows["record"], 0, _SHOWN)
    return [Refused(**row) for row in rows.set_column(rows.num_columns - 1, "record", records).to_pylist()]


def _with_offenders(connection: duckdb.DuckDBPyConnection, rule: RuleCount) -> RuleCount:
    if not rule.failed:
        return rule.model_copy(update={"observed": "0 %"})
    table = ROWS_OF[rule.table]
    found = connection.execute(
        f"SELECT file || ':' || line FROM {table}_staged WHERE row IN (SELECT f.row FROM failed f "
        "JOIN rules r ON r.id = f.rule WHERE r.table_name = ? AND r.name = ? ORDER BY f.row "
        f"LIMIT {_EXAMPLES}) ORDER BY row",
        [rule.table, rule.rule],
    ).fetchall()
    share = f"{rule.failed / rule.checked:.2%}"
    return rule.model_copy(update={"observed": share, "offenders": tuple(place for (place,) in found)})


def _refused(connection: duckdb.DuckDBPyConnection, table: str, scratch: Path) -> Iterator[pa.RecordBatch]:
    """The refused rows of a table in their order, with their records."""
    names = [name for name in COLUMNS[table] if name not in LONG[table]]
    short = ", ".join(f"any_value(s.{name})::VARCHAR AS {_VALUE}{name}" for name in names)
    long = ", ".join(f"any_value(s.{name}_{part}) AS {name}_{part}" for name in LONG[table] for part in ("at", "size"))
    sizes = " + ".join(f"coalesce(any_value(s.{name}_size), 0)" for name in LONG[table])
    rows = connection.sql(f"""
        SELECT '{table}' AS "table", any_value(s.file) AS file, any_value(s.line) AS row,
               any_value({_key(table)}) AS key, arg_min(r.name, r.id) AS rule,
               string_agg(coalesce(r.reason, s.fault_detail), '; ' ORDER BY r.id)
                   || coalesce(any_value(' (first at ' || first.file || ':' || first.line || ')'), '') AS reason,
               any_value(s.form) AS form, {long}, {sizes} AS size, {short}
        FROM failed f JOIN rules r ON r.id = f.rule JOIN {table}_staged s ON s.row = f.row
        LEFT JOIN {table}_compared c ON c.row = f.row AND c.nth > 1
        LEFT JOIN {table}_staged first ON first.row = c.first_row
        WHERE f.rows_of = '{table}' AND f.severity = 'error'
        GROUP BY s.row ORDER BY s.row""")
    with ExitStack() as stack:
        files = {name: stack.enter_context(LongTextReader(long_texts(scratch, table, name))) for name in LONG[table]}
        for batch in rows.to_arrow_reader(_AT_ONCE):
            for part in split_by_size(batch, "size", _AT_ONCE_BYTES):
                columns = [part[name] for name in _REFUSED.names[:-1]]
                yield pa.RecordBatch.from_arrays([*columns, _records(part, files)], schema=_REFUSED)


def _records(rows: pa.RecordBatch, files: Mapping[str, LongTextReader]) -> pa.Array:
    """The raw records: kept as they were read, or written again from the columns that their form names."""
    long = {name: file.read(rows[f"{name}_at"], rows[f"{name}_size"]) for name, file in files.items()}
    texts = {name: found.cast(pa.string()).to_pylist() for name, found in long.items()}
    records = texts.pop("record")
    short = rows.select([name for name in rows.schema.names if name.startswith(_VALUE)]).to_pylist()
    for place, form in enumerate(rows["form"].to_pylist()):
        if form is not None:
            values = {name.removeprefix(_VALUE): value for name, value in short[place].items()}
            values |= {name: found[place] for name, found in texts.items()}
            named = {own: name and values[name] for own, name in json.loads(form).items()}
            records[place] = json.dumps(named, ensure_ascii=False)
    return pa.array(records, pa.string())


def _pointed(table: str) -> str:
    return f"""
        SELECT '{table}' AS "table", s.file, s.line AS row, {_key(table)} AS key, r.name AS rule, r.id,
               {SOURCE_TABLES.index(table)} AS place, s.row AS number
        FROM failed f JOIN rules r ON r.id = f.rule JOIN {table}_staged s ON s.row = f.row
        WHERE f.rows_of = '{table}' AND f.severity <> 'error'"""


def _key(table: str) -> str:
    return f"coalesce(s.fault_key, concat_ws(' ', {', '.join(f's.{name}' for name in _KEYS[table])}))"
