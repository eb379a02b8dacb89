"""Results of contract rules on numbers that Great Expectations checked on earlier nights.

    <home>/contract-results.json

Whether a row passes a rule depends on one measured number (see `data_contracts/judge.py`), and most numbers of a night
were measured before. Their results are reused, so a night without new results does not load Great Expectations. Of
`expect_column_values_to_be_between`, the passing numbers are an interval: a number between two that passed passes, and
a number beyond one that failed fails. Great Expectations checks the numbers next to each limit once; then every result
is known. Results belong to the expectation, its arguments, and the version of Great Expectations. If the file is lost,
all numbers are checked again.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from data_contracts.contract import Rule
from tasks.core.base.checksums import read_record, write_record
from tasks.core.base.duckdb_session import one_number
from tasks.core.base.errors import Damaged
from tasks.core.base.files import digest_of

if TYPE_CHECKING:
    import duckdb

FILE = "contract-results.json"  # in the home
MOST = 1000  # stored numbers of a rule
FAILS, PASSES, UNKNOWN = 0, 1, -1
_LARGEST = 2**53  # integers up to here are exact in a column with nulls, which pandas stores as float
_INTERVAL = {"expect_column_values_to_be_between", "expect_column_values_to_not_be_null"}
_SCHEMA = pa.schema([("rule", pa.string()), ("value", pa.float64()), ("passes", pa.bool_())])


def load_results(connection: duckdb.DuckDBPyConnection, home: Path) -> None:
    """Create the table `known_results` (rule, value, passes) with the results that the home stores."""
    create_results(connection)
    try:
        stored = read_record(home / FILE)["results"]
        rows = [(rule, value, bool(passes)) for rule, entries in stored.items() for value, passes in entries]
        columns = list(zip(*rows, strict=True)) if rows else [(), (), ()]
        table = pa.table([pa.array(column, kind) for column, kind in zip(columns, _SCHEMA.types, strict=True)], _SCHEMA)
    except FileNotFoundError:
        return
    except (Damaged, LookupError, TypeError, ValueError, AttributeError, pa.ArrowException):
        return  # all numbers are checked again, and the file is replaced
    connection.register("stored", table)
    connection.execute("INSERT INTO known_results SELECT * FROM stored")
    connection.unregister("stored")


def create_results(connection: duckdb.DuckDBPyConnection) -> None:
    """Create the table `known_results` without rows, if it does not exist."""
    connection.execute("CREATE TABLE IF NOT EXISTS known_results (rule VARCHAR, value DOUBLE, passes BOOLEAN)")


def save_results(connection: duckdb.DuckDBPyConnection, home: Path) -> None:
    """Store the table `known_results` in the home, if it has new results."""
    rows = connection.execute("SELECT DISTINCT rule, value, passes FROM known_results ORDER BY ALL").fetchall()
    results: dict[str, list[tuple[float, bool]]] = {}
    for rule, value, passes in rows:
        results.setdefault(rule, []).append((value, passes))
    results = {rule: entries for rule, entries in results.items() if len(entries) <= MOST}
    try:
        unchanged = digest_of(read_record(home / FILE)["results"]) == digest_of(results)
    except (FileNotFoundError, Damaged, LookupError):
        unchanged = False
    if not unchanged:
        write_record(home / FILE, {"results": results})


def find_results(connection: duckdb.DuckDBPyConnection, rule: Rule, values: pa.Array) -> np.ndarray:
    """Return FAILS, PASSES, or UNKNOWN for each value, int8 (n,). Only numbers and nulls have known results."""
    results = np.full(len(values), UNKNOWN, np.int8)
    if not _is_number(values.type):
        return results
    query = "SELECT value, passes FROM known_results WHERE rule = ?"
    known = connection.execute(query, [_key(rule)]).fetchall()
    number = np.array([np.nan if value is None else value for value, _ in known], np.float64)
    passes = np.array([passed for _, passed in known], bool)
    numbers, null = _floats(values), np.isnan(number)
    if null.any():
        results[np.isnan(numbers)] = passes[null][0]
    number, passes = number[~null], passes[~null]
    if rule.expectation in _INTERVAL and passes.any():
        low, high = number[passes].min(), number[passes].max()
        below, above = number[~passes & (number < low)], number[~passes & (number > high)]
        results[(numbers <= below.max(initial=-np.inf)) | (numbers >= above.min(initial=np.inf))] = FAILS
        results[(numbers >= low) & (numbers <= high)] = PASSES
    else:
        results[np.isin(numbers, number[passes])] = PASSES
        results[np.isin(numbers, number[~passes])] = FAILS
    return results


def has_results(connection: duckdb.DuckDBPyConnection, rule: Rule) -> bool:
    """Return whether the rule was run before, so its expectation and arguments are valid."""
    query = "SELECT count(*) FROM known_results WHERE rule = ?"
    return one_number(connection, query, [_key(rule)]) > 0


def numbers_at_limits(rules: Sequence[Rule], values: pa.Array) -> pa.Array:
    """Return the numbers to check in addition to `values`, the distinct values of one column.

    They are the limits of the rules, the nearest numbers on both sides of each, and very small and large numbers. With
    their results, almost every number that a later night measures has a known result.
    """
    if not _is_number(values.type):
        return values.slice(0, 0)
    limits = {rule.kwargs[name] for rule in rules for name in ("min_value", "max_value") if name in rule.kwargs}
    limits |= {number for rule in rules for number in rule.kwargs.get("value_set", ())}
    limits = {limit for limit in limits if isinstance(limit, int | float)}
    integers = pa.types.is_integer(values.type)
    largest = min(_LARGEST, np.iinfo(values.type.to_pandas_dtype()).max) if integers else _LARGEST
    near = [(limit - 1, limit, limit + 1) if integers else _neighbors(limit) for limit in limits]
    numbers = {number for numbers in [(-largest, largest), *near] for number in numbers if abs(number) <= largest}
    return pa.array(sorted(numbers.difference(values.to_pylist())), values.type)


def add_results(connection: duckdb.DuckDBPyConnection, rule: Rule, values: pa.Array, failed: pa.Array) -> None:
    """Add the results of a rule: of the distinct `values`, all passed except `failed`. Texts are not stored.

    If the passing numbers are an interval, only its ends and the next failing numbers are stored.
    """
    if not _is_number(values.type):
        return
    numbers, bad = np.sort(_floats(values)), _floats(failed)  # NaN (of null) is last
    passes = ~np.isin(numbers, bad) & ~(np.isnan(numbers) & np.isnan(bad).any())
    if rule.expectation in _INTERVAL and (passes & ~np.isnan(numbers)).any():
        first, last = np.flatnonzero(passes & ~np.isnan(numbers))[[0, -1]]
        rows = np.arange(len(numbers))
        ends = np.isin(rows, [first - 1, first, last, last + 1]) | np.isnan(numbers)
        numbers, passes = numbers[ends], passes[ends]
    value = pa.array(numbers, pa.float64(), mask=np.isnan(numbers))
    table = pa.table([pa.array([_key(rule)] * len(numbers), pa.string()), value, pa.array(passes)], schema=_SCHEMA)
    connection.register("checked", table)
    connection.execute("INSERT INTO known_results SELECT * FROM checked")
    connection.unregister("checked")


def _neighbors(limit: float) -> tuple[float, float, float]:
    return float(np.nextafter(limit, -np.inf)), float(limit), float(np.nextafter(limit, np.inf))


def _floats(values: pa.Array) -> np.ndarray:
    """Return the values as float64, and nulls as NaN."""
    return np.asarray(values.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _key(rule: Rule) -> str:
    arguments = {name: value for name, value in rule.kwargs.items() if name != "column"}
    return digest_of([rule.expectation, arguments, version("great_expectations")])
