"""DuckDB for one step: bounded memory, spills into the step's own scratch folder, no extension from the network."""

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
_A_THREAD = 96  # MB with which joins of a million ids stay in memory
_A_THREAD_TO_SORT = 32  # MB: a sort takes all it may, and is hardly slower when it spills
_A_ROW = 16  # bytes: what DuckDB needs at least to spill joins and sorts of narrow rows; a third of it was too little


@contextmanager
def database(scratch: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """An in-memory database that is gone afterwards; what does not fit into 512 MB is spilled under `scratch`."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": _MEMORY,
        "temp_directory": str(scratch / "spill"),
        "threads": cores(),
        "preserve_insertion_order": False,  # it costs memory; what must be in order says so
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
    }
    with duckdb.connect(config=settings) as connection:
        yield connection


def make_room(connection: duckdb.DuckDBPyConnection, rows: int, *, to_sort: bool = False) -> None:
    """Allow the memory that narrow `rows` need: 96 MB a thread, or 32 MB `to_sort` them, and 16 bytes a row."""
    fixed = (_A_THREAD_TO_SORT if to_sort else _A_THREAD) * max(2, cores())
    connection.execute(f"SET memory_limit = '{fixed + rows * _A_ROW // 10**6}MB'")


def keep(connection: duckdb.DuckDBPyConnection, query: str, file: Path) -> None:
    """Write what a query gives into a Parquet file, in row groups so small that writing them takes little memory."""
    connection.execute(
        f"COPY ({query}) TO {quoted(file)} (FORMAT parquet, COMPRESSION lz4, ROW_GROUP_SIZE {_GROUP_ROWS})"
    )


def quoted(path: Path) -> str:
    """A path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"


def one_number(connection: duckdb.DuckDBPyConnection, query: str, values: Sequence[object] = ()) -> int:
    """The only value of the only row that a query gives."""
    ((found,),) = connection.execute(query, list(values)).fetchall()
    return int(found)
