"""Reads the rows of a table once, in source order, and computes the row measures.

The staged rows are narrow: provenance, keys, the offsets of long texts, and the measures of row rules. Later queries
read only these, so their time and memory do not depend on the length of the texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import Contract
from data_contracts.measures import HASHES, KEY, Kind, odd_sql, row_sql
from tasks.core.base.duckdb_session import keep, quoted
from tasks.core.ingest.long_texts import LONG_COLUMNS, LongTextWriter, long_texts
from tasks.core.sources.rows import SCHEMAS

if TYPE_CHECKING:
    import duckdb

SOURCE = "split_part(file, '/', 1)"  # SQL: the source of a staged row, if the collection has several sources


def stage_source(
    connection: duckdb.DuckDBPyConnection, contract: Contract, batches: Iterable[pa.RecordBatch], scratch: Path
) -> None:
    """Stage the batches (schema `rows.SCHEMAS[table]`) of a source table; see `stage`.

    Raises the exceptions of the reader of `batches`.
    """
    import duckdb

    table = contract.table
    failed: list[Exception] = []
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(LongTextWriter(long_texts(scratch, table, name))) for name in LONG_COLUMNS[table]
        }
        rows = pa.RecordBatchReader.from_batches(_schema(table), _with_texts_in_files(table, batches, writers, failed))
        connection.register("incoming", rows)
        try:
            stage(connection, contract, "incoming", scratch)
        except duckdb.Error:
            if failed:  # duckdb.Error has only the message of the original exception
                raise failed[0] from None
            raise
        finally:
            connection.unregister("incoming")
    pa.default_memory_pool().release_unused()  # the memory of the texts


def stage(connection: duckdb.DuckDBPyConnection, contract: Contract, rows: str, scratch: Path) -> None:
    """Read the relation `rows` once, and create the views `<table>_staged` and `<table>_measured` over one file.

    The rows have the measures of row rules, and hashes to find equal keys and texts. `<table>_measured` omits rows
    with a fault.
    """
    table = contract.table
    measured = [rule.measured for rule in contract.rules_of_kind(Kind.ROW)]
    columns = {
        column.column: row_sql(column, contract.foreign_keys.get(column.subject)) for column in measured
    } | _hashes(contract)
    inner = ", ".join(["*", *(f"{expression} AS {name}" for name, expression in odd_sql(measured).items())])
    outer = ", ".join(
        [*_narrow_columns(contract), *(f"{expression} AS {name}" for name, expression in columns.items())]
    )
    file = scratch / f"{table}_staged.parquet"
    keep(connection, f"SELECT {outer} FROM (SELECT {inner} FROM {rows})", file)
    connection.execute(f"CREATE VIEW {table}_staged AS SELECT * FROM read_parquet({quoted(file)})")
    connection.execute(f"CREATE VIEW {table}_measured AS SELECT * FROM {table}_staged WHERE fault IS NULL")


def _with_texts_in_files(
    table: str,
    batches: Iterable[pa.RecordBatch],
    writers: Mapping[str, LongTextWriter],
    failed: list[Exception],
) -> Iterator[pa.RecordBatch]:
    """Write the long texts of each batch to files, and yield the batch with offsets; also append errors to `failed`."""
    schema = _schema(table)
    try:
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            for name, writer in writers.items():
                columns[f"{name}_at"], columns[f"{name}_size"] = writer.add(columns[name])
            yield pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
    except Exception as error:
        failed.append(error)
        raise


def _schema(table: str) -> pa.Schema:
    """Return the schema of incoming rows: without raw records, with the offsets of all long texts."""
    fields = [field for field in SCHEMAS[table] if field.name != "record"]
    return pa.schema([*fields, *((name, pa.int64()) for name in _text_columns(table))])


def _narrow_columns(contract: Contract) -> list[str]:
    table = contract.table
    known = (
        [*SCHEMAS[table].names, *_text_columns(table)] if table in SCHEMAS else ["row", "fault", *contract.properties]
    )
    return [name for name in known if name not in LONG_COLUMNS[table]]


def _text_columns(table: str) -> list[str]:
    return [f"{name}_{part}" for name in LONG_COLUMNS[table] for part in ("at", "size")]


def _hashes(contract: Contract) -> dict[str, str]:
    content = ", ".join(name for name in contract.properties if name not in contract.key)
    columns = {f"{KEY}_hash": f"hash({', '.join(contract.key)})", f"{KEY}_content": f"hash({content})"}
    for rule in contract.rules_of_kind(Kind.TABLE):
        if rule.measured.measure in ("copies", "nearness"):
            subject = rule.measured.subject
            columns |= {f"{subject}_{name}": sql.format(p=subject) for name, sql in HASHES.items()}
    return columns
