"""Figures of whole tables beside the last snapshot of the same feed: how many rows, which alphabet, which language."""

from __future__ import annotations

import unicodedata
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from data_contracts.contract import Contract
from data_contracts.measures import Kind, Measured
from tasks.core.base.duckdb_session import one_number, quoted
from tasks.core.base.receipts import Snapshot
from tasks.core.ingest.long_texts import LONG, LongTextReader, long_texts
from tasks.core.snapshot.reader import PASSAGES, QUERIES
from tasks.core.sources.demo_near_duplicates import words

if TYPE_CHECKING:
    import duckdb

_TEXTS = 5_000  # texts looked at, drawn by the hash of their id
_CHARACTERS = 500  # of each
_COMMON = 100
_ENOUGH = 1_000  # letters, or words, below which nothing can be said
_OLD = {"passages": PASSAGES, "queries": QUERIES}
_ROWS = {"passages": "passages_accepted", "queries": "queries_accepted", "qrels": "pairs_accepted"}


def measure_whole(
    connection: duckdb.DuckDBPyConnection, contract: Contract, last: Snapshot | None, scratch: Path
) -> None:
    """Create the view `<table>_whole`: one row with the figures that the contract's rules ask for.

    Those that compare with `last` are null without it, and where one side has fewer than 1,000 letters or words.
    """
    asked = {rule.measured for rule in contract.of_kind(Kind.WHOLE)}
    figures = {one.column: _figure(connection, contract.table, one, last, scratch) for one in asked}
    row = pa.table({"row": [0], **{name: pa.array([value], pa.float64()) for name, value in figures.items()}})
    connection.register(f"{contract.table}_whole", row)


def script_shares(texts: list[str]) -> dict[str, float]:
    """Share of each script among the letters; a letter's script is the first word of its Unicode name."""
    letters = Counter("".join(texts))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[unicodedata.name(letter, "unnamed").split(" ")[0].split("-")[0]] += count
    total = scripts.total()
    return {script: count / total for script, count in scripts.items()} if total >= _ENOUGH else {}


def _figure(
    connection: duckdb.DuckDBPyConnection, table: str, measured: Measured, last: Snapshot | None, scratch: Path
) -> float | None:
    if measured.of == "table":
        now = one_number(connection, f"SELECT count(*) FROM {_ROWS[table]}")
        if measured.measure == "rows":
            return float(now)
        before = None if last is None else {"passages": last.rows, "queries": last.queries, "qrels": last.qrels}[table]
        return now / before if before else None
    if last is None:
        return None
    key = {"passages": "passage_id", "queries": "query_id"}[table]
    aside = long_texts(scratch, table, measured.of) if measured.of in LONG[table] else None
    new = _texts(connection, f"{table}_accepted", key, measured.of, aside)
    old = _texts(connection, f"read_parquet({quoted(last.path / _OLD[table])})", key, measured.of)
    return _moved(old, new) if measured.measure == "scripts" else _familiar(old, new)


def _texts(
    connection: duckdb.DuckDBPyConnection, source: str, key: str, column: str, aside: Path | None = None
) -> list[str]:
    """The beginnings of some texts, which lie in `source` or in the file `aside`."""
    drawn = f"FROM {source} ORDER BY hash({key}), {key} LIMIT {_TEXTS}"
    if aside is None:
        found = connection.execute(f"SELECT left({column}, {_CHARACTERS}) {drawn}").fetchall()
        return [text for (text,) in found]
    places = connection.sql(f"SELECT {column}_at, least({column}_size, {4 * _CHARACTERS}) {drawn}").to_arrow_table()
    with LongTextReader(aside) as texts:
        cut = texts.read(places.column(0), places.column(1))
    return [one.decode("utf-8", "ignore")[:_CHARACTERS] for one in cut.drop_null().to_pylist()]


def _moved(old: list[str], new: list[str]) -> float | None:
    """Total variation distance of the scripts' shares."""
    before, after = script_shares(old), script_shares(new)
    if not before or not after:
        return None
    return sum(abs(before.get(one, 0.0) - after.get(one, 0.0)) for one in {*before, *after}) / 2


def _familiar(old: list[str], new: list[str]) -> float | None:
    before, after = (Counter(word for text in texts for word in words(text)) for texts in (old, new))
    if min(before.total(), after.total()) < _ENOUGH:
        return None
    common = [word for word, _ in before.most_common(_COMMON)]
    shares = [sum(counts[word] for word in common) / counts.total() for counts in (before, after)]
    return shares[1] / shares[0]
