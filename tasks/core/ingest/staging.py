"""Takes the rows of a table in: once, in the order of the source, measured while they pass.

What is left behind is narrow: a row's provenance and keys, where its long texts lie, and what the rules of single rows
ask for. Every later query reads that, so neither its time nor its memory depends on how long the texts are.
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
from tasks.core.ingest.long_texts import LONG, LongTextWriter, long_texts
from tasks.core.sources.rows import SCHEMAS

if TYPE_CHECKING:
    import duckdb


def stage_source(
    connection: duckdb.DuckDBPyConnection, contract: Contract, batches: Iterable[pa.RecordBatch], scratch: Path
) -> None:
    """Stage the batches (schema `rows.SCHEMAS[table]`) of a table that the source has; see `stage`.

    Raises whatever the reader of `batches` raises.
    """
    import duckdb

    table = contract.table
    failed: list[Exception] = []
    with ExitStack() as stack:
        writers = {name: stack.enter_context(LongTextWriter(long_texts(scratch, table, name))) for name in LONG[table]}
        rows = pa.RecordBatchReader.from_batches(_schema(table), _laid_down(table, batches, writers, failed))
        connection.register("incoming", rows)
        try:
            stage(connection, contract, "incoming", scratch)
        except duckdb.Error:
            if failed:  # DuckDB tells its words only
                raise failed[0] from None
            raise
        finally:
            connection.unregister("incoming")
    pa.default_memory_pool().release_unused()  # what the texts took


def stage(connection: duckdb.DuckDBPyConnection, contract: Contract, rows: str, scratch: Path) -> None:
    """Read the relation `rows` once, and create two views over one file.

    They are `<table>_staged` and, of rows without fault, `<table>_measured`.

    Measured are the rules of single rows, and hashes to find equal keys and texts by.
    """
    table = contract.table
    measured = [rule.measured for rule in contract.of_kind(Kind.ROW)]
    columns = {one.column: row_sql(one, contract.foreign.get(one.of)) for one in measured} | _hashes(contract)
    inner = ", ".join(["*", *(f"{expression} AS {name}" for name, expression in odd_sql(measured).items())])
    outer = ", ".join([*_narrow(contract), *(f"{expression} AS {name}" for name, expression in columns.items())])
    file = scratch / f"{table}_staged.parquet"
    keep(connection, f"SELECT {outer} FROM (SELECT {inner} FROM {rows})", file)
    connection.execute(f"CREATE VIEW {table}_staged AS SELECT * FROM read_parquet({quoted(file)})")
    connection.execute(f"CREATE VIEW {table}_measured AS SELECT * FROM {table}_staged WHERE fault IS NULL")


def _laid_down(
    table: str,
    batches: Iterable[pa.RecordBatch],
    writers: Mapping[str, LongTextWriter],
    failed: list[Exception],
) -> Iterator[pa.RecordBatch]:
    """The batches, once their long texts are in files; what goes wrong is noted in `failed`, too."""
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
    """What is measured: without the raw records, with the places of all long texts."""
    fields = [field for field in SCHEMAS[table] if field.name != "record"]
    return pa.schema([*fields, *((name, pa.int64()) for name in _places(table))])


def _narrow(contract: Contract) -> list[str]:
    table = contract.table
    known = [*SCHEMAS[table].names, *_places(table)] if table in SCHEMAS else ["row", "fault", *contract.properties]
    return [name for name in known if name not in LONG[table]]


def _places(table: str) -> list[str]:
    return [f"{name}_{part}" for name in LONG[table] for part in ("at", "size")]


def _hashes(contract: Contract) -> dict[str, str]:
    content = ", ".join(name for name in contract.properties if name not in contract.key)
    columns = {f"{KEY}_hash": f"hash({', '.join(contract.key)})", f"{KEY}_content": f"hash({content})"}
    for rule in contract.of_kind(Kind.COMPARED):
        if rule.measured.measure in ("copies", "nearness"):
            columns |= {f"{rule.measured.of}_{name}": sql.format(p=rule.measured.of) for name, sql in HASHES.items()}
    return columns
