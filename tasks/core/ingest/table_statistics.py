"""Computes aggregate measures: the rows, scripts, and words of a table, compared with the last snapshot of the feed."""

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
from tasks.core.ingest.long_texts import LONG_COLUMNS, LongTextReader, long_texts
from tasks.core.snapshot.reader import PASSAGES, QUERIES
from tasks.core.text.words import alphanumeric_words

if TYPE_CHECKING:
    import duckdb

_SAMPLE = 5_000  # texts, chosen by the hash of their id
_CHARACTERS = 500  # compared characters of each text
_FREQUENT_WORDS = 100
_LEAST_COUNT = 1_000  # letters or words; with fewer, the comparison is null
_SNAPSHOT_FILES = {"passages": PASSAGES, "queries": QUERIES}
_ACCEPTED = {"passages": "passages_accepted", "queries": "queries_accepted", "qrels": "pairs_accepted"}


def measure_aggregates(
    connection: duckdb.DuckDBPyConnection, contract: Contract, last: Snapshot | None, scratch: Path
) -> None:
    """Create the view `<table>_aggregates`: one row with the aggregate measures that the rules of the contract use.

    A comparison with `last` is null if there is no last snapshot, or if one side has fewer than 1,000 letters or words.
    """
    columns = {rule.measured for rule in contract.rules_of_kind(Kind.AGGREGATE)}
    figures = {column.column: _aggregate(connection, contract.table, column, last, scratch) for column in columns}
    row = pa.table({"row": [0], **{name: pa.array([value], pa.float64()) for name, value in figures.items()}})
    connection.register(f"{contract.table}_aggregates", row)


def script_shares(texts: list[str]) -> dict[str, float]:
    """Return the share of each script among the letters: the first word of a letter's Unicode name is its script."""
    letters = Counter("".join(texts))
    scripts: Counter[str] = Counter()
    for letter, count in letters.items():
        if letter.isalpha():
            scripts[unicodedata.name(letter, "unnamed").split(" ")[0].split("-")[0]] += count
    total = scripts.total()
    return {script: count / total for script, count in scripts.items()} if total >= _LEAST_COUNT else {}


def _aggregate(
    connection: duckdb.DuckDBPyConnection, table: str, measured: Measured, last: Snapshot | None, scratch: Path
) -> float | None:
    if measured.subject == "table":
        now = one_number(connection, f"SELECT count(*) FROM {_ACCEPTED[table]}")
        if measured.measure == "rows":
            return float(now)
        before = None if last is None else {"passages": last.rows, "queries": last.queries, "qrels": last.qrels}[table]
        return now / before if before else None
    if last is None:
        return None
    key = {"passages": "passage_id", "queries": "query_id"}[table]
    text_file = long_texts(scratch, table, measured.subject) if measured.subject in LONG_COLUMNS[table] else None
    new = _sample_texts(connection, f"{table}_accepted", key, measured.subject, text_file)
    old = _sample_texts(
        connection, f"read_parquet({quoted(last.path / _SNAPSHOT_FILES[table])})", key, measured.subject
    )
    return _script_distance(old, new) if measured.measure == "scripts" else _wording_ratio(old, new)


def _sample_texts(
    connection: duckdb.DuckDBPyConnection, source: str, key: str, column: str, text_file: Path | None = None
) -> list[str]:
    """Return the beginnings of a sample of texts, which are in `source` or in the file `text_file`."""
    sampled = f"FROM {source} ORDER BY hash({key}), {key} LIMIT {_SAMPLE}"
    if text_file is None:
        rows = connection.execute(f"SELECT left({column}, {_CHARACTERS}) {sampled}").fetchall()
        return [text for (text,) in rows]
    places = connection.sql(f"SELECT {column}_at, least({column}_size, {4 * _CHARACTERS}) {sampled}").to_arrow_table()
    with LongTextReader(text_file) as texts:
        contents = texts.read(places.column(0), places.column(1))
    return [content.decode("utf-8", "ignore")[:_CHARACTERS] for content in contents.drop_null().to_pylist()]


def _script_distance(old: list[str], new: list[str]) -> float | None:
    """Return the total variation distance between the script shares; None with too few letters."""
    before, after = script_shares(old), script_shares(new)
    if not before or not after:
        return None
    return sum(abs(before.get(script, 0.0) - after.get(script, 0.0)) for script in {*before, *after}) / 2


def _wording_ratio(old: list[str], new: list[str]) -> float | None:
    """Return the share of the old frequent words in the new texts, divided by their share in the old texts."""
    before, after = (Counter(word for text in texts for word in alphanumeric_words(text)) for texts in (old, new))
    if min(before.total(), after.total()) < _LEAST_COUNT:
        return None
    common = [word for word, _ in before.most_common(_FREQUENT_WORDS)]
    shares = [sum(counts[word] for word in common) / counts.total() for counts in (before, after)]
    return shares[1] / shares[0]
