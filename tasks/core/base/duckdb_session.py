"""DuckDB sessions with bounded memory, spilling to a scratch folder, and no extensions from the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core.base.settings import cores

if TYPE_CHECKING:
    import duckdb

_GROUP_ROWS = 20_480
_MEMORY = "512MB"
_MB_PER_THREAD = 96  # keeps joins of a million ids in memory
_MB_PER_SORT_THREAD = 32  # a sort uses all memory it may, and is hardly slower when it spills
_BYTES_PER_ROW = 16  # minimum for DuckDB to spill joins and sorts of narrow rows; a third of this was too little


@contextmanager
def database(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open a temporary in-memory database that is limited to 512 MB and spills to `scratch`."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "temp_directory": str(scratch / "spill"),
        "threads": cores(),
        "preserve_insertion_order": False,  # saves memory; queries use ORDER BY where order matters
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=settings) as connection:
        yield connection


def make_room(connection: duckdb.DuckDBPyConnection, rows: int, *, to_sort: bool = False) -> None:
    """Raise the memory limit for a query over narrow rows: 96 MB per thread, plus 16 bytes per row.

    Args:
        connection: The database.
        rows: Number of rows in the query.
        to_sort: The query sorts the rows; 32 MB per thread are enough.
    """
    fixed = (_MB_PER_SORT_THREAD if to_sort else _MB_PER_THREAD) * max(2, cores())
    connection.execute(f"SET memory_limit = '{fixed + rows * _BYTES_PER_ROW // 10**6}MB'")


def keep(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Write the result of a query to a Parquet file, in small row groups to save memory."""
    connection.execute(
        f"COPY ({query}) TO {quoted(file)} (FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {_GROUP_ROWS})"
    )


def quoted(path: Path | str) -> str:
    """Return a path or a text as an SQL string literal."""
    return "'" + str(path).replace("'", "''") + "'"


def one_number(connection: duckdb.DuckDBPyConnection, query: str, values: Sequence[object] = ()) -> int:
    """Return the number that a query with one row and one column selects."""
    ((number,),) = connection.execute(query, list(values)).fetchall()
    return int(number)
