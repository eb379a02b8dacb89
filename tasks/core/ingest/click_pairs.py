"""Makes queries and training pairs from the accepted result pages of click logs."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa

from data_contracts.measures import WORDING
from tasks.core.base.sections.data import ClickSettings
from tasks.core.ingest.position_bias import (
    LEAST_INFORMATIVE,
    Impressions,
    estimate_propensity,
    extend_propensity,
    relevance,
)
from tasks.core.ingest.staging import SOURCE
from tasks.core.snapshot.splits import Split
from tasks.core.sources.combined import query_id
from tasks.core.sources.rows import Raw, Rows

if TYPE_CHECKING:
    import duckdb

_log = logging.getLogger("nightshift.ingest")
SUREST = 0.99  # weight of a click pair, at most: less than that of a judgment
_SHOWN_POSITIONS = 10  # in the log

Tables = dict[str, list[pa.RecordBatch]]


class ClickLog(NamedTuple):
    """What became of a click log."""

    tables: Tables  # queries and qrels, in the schema `rows.SCHEMAS`
    notes: tuple[str, ...]  # for the log and the report


def click_pairs(connection: duckdb.DuckDBPyConnection, source: str, weight: float, settings: ClickSettings) -> ClickLog:
    """Compute the queries and training pairs of one click log from `clicks_accepted` and `passages_accepted`.

    Queries of equal wording are one query. A pair of query and passage becomes a training pair if enough result pages
    showed it, someone clicked it, and it is probably relevant; this probability, multiplied by `weight`, is its weight.
    Passages that are not in the collection (any more) have no pairs.

    Args:
        connection: with both views.
        source: name of the source.
        weight: of the source.
        settings: `[data.clicks]`.
    """
    _count_impressions(connection, source)
    counts = connection.sql(
        "SELECT pair, position, shown, clicks FROM impressions ORDER BY pair, position"
    ).fetchnumpy()
    impressions = Impressions(*(np.asarray(counts[name]) for name in ("pair", "position", "shown", "clicks")))
    pairs = connection.sql("SELECT wording, passage_id FROM click_candidates ORDER BY pair").to_arrow_table()
    last = int(impressions.position.max(initial=1))
    given = settings.propensity
    propensity = extend_propensity(given, last) if given else estimate_propensity(impressions)
    sure = relevance(impressions, propensity, settings.max_correction)
    shown, clicks = impressions.per_pair(impressions.shown), impressions.per_pair(impressions.clicks)
    kept = np.flatnonzero((shown >= settings.min_impressions) & (clicks > 0) & (sure >= max(settings.min_weight, 1e-6)))
    weights = np.minimum(sure[kept], SUREST) * weight
    tables = _tables(connection, source, pairs.take(pa.array(kept)), weights, shown[kept], clicks[kept])
    notes = (
        *_notes(connection, source, len(kept), weights, clicks),
        _describe_propensity(source, propensity, impressions, estimated=not given),
    )
    for note in notes:
        _log.info("%s", note)
    connection.execute("DROP TABLE impressions; DROP TABLE click_candidates; DROP TABLE result_pages")
    return ClickLog(tables, notes)


def _count_impressions(connection: duckdb.DuckDBPyConnection, source: str) -> None:
    """Create `result_pages` (with the wording of the query), `click_candidates` (pairs), and `impressions`."""
    wording = WORDING.format(p="query")
    connection.execute(
        f"CREATE TEMP TABLE result_pages AS SELECT *, {wording} AS wording FROM clicks_accepted WHERE {SOURCE} = ?",
        [source],
    )
    connection.execute("""
        CREATE TEMP TABLE impressions AS
        WITH seen AS (
            SELECT wording, unnest(shown) AS passage_id, unnest(positions) AS position, clicked FROM result_pages
        ), known AS (SELECT * FROM seen SEMI JOIN passages_accepted USING (passage_id))
        SELECT wording, passage_id, position::BIGINT AS position, count(*) AS shown,
               count(*) FILTER (list_contains(clicked, passage_id)) AS clicks,
               dense_rank() OVER (ORDER BY wording, passage_id) - 1 AS pair
        FROM known GROUP BY wording, passage_id, position""")
    connection.execute(
        "CREATE TEMP TABLE click_candidates AS SELECT DISTINCT pair, wording, passage_id FROM impressions"
    )


def _tables(
    connection: duckdb.DuckDBPyConnection,
    source: str,
    pairs: pa.Table,
    weights: np.ndarray,
    shown: np.ndarray,
    clicks: np.ndarray,
) -> Tables:
    """Return the queries and qrels of the kept pairs. A query has its most frequent spelling, and an id by wording."""
    connection.register("kept_pairs", pairs)
    spellings = connection.sql("""
        SELECT wording, arg_max(query, (n, query)) AS text, left(md5(wording), 16) AS id FROM (
            SELECT wording, query, count(*) AS n FROM result_pages SEMI JOIN kept_pairs USING (wording) GROUP BY ALL)
        GROUP BY wording ORDER BY wording""").fetchall()
    connection.unregister("kept_pairs")
    ids = {wording: query_id(source, key).as_py() for wording, _, key in spellings}
    queries, qrels = _TableRows("queries", source), _TableRows("qrels", source)
    for wording, text, _ in spellings:
        queries.add({"query": text}, (ids[wording], text))
    facts = zip(*(pairs[name].to_pylist() for name in ("wording", "passage_id")), weights, shown, clicks, strict=True)
    for wording, passage, weight, pages, clicked in facts:
        record = {"query": wording, "passage": passage, "pages": int(pages), "clicks": int(clicked)}
        qrels.add(record, (ids[wording], passage, str(Split.TRAIN), 1, float(weight)))
    return {"queries": list(queries.batches()), "qrels": list(qrels.batches())}


class _TableRows:
    """Collects derived rows. Their place is the click log and a running number; their record gives the counts."""

    def __init__(self, table: str, source: str) -> None:
        self._rows, self._file, self._count = Rows(table), f"{source}/{table} of the click log", 0
        self._full: list[pa.RecordBatch] = []

    def add(self, record: dict[str, object], values: tuple[str | float | None, ...]) -> None:
        self._count += 1
        content = json.dumps(record, ensure_ascii=False).encode()
        self._rows.add(Raw(self._file, self._count, content), values)
        if self._rows.full:
            self._full.append(self._rows.take())

    def batches(self) -> Iterator[pa.RecordBatch]:
        yield from self._full
        if self._rows.waiting:
            yield self._rows.take()


def _notes(
    connection: duckdb.DuckDBPyConnection, source: str, kept: int, weights: np.ndarray, clicks: np.ndarray
) -> Iterator[str]:
    counted = connection.execute(
        "SELECT count(*), count(DISTINCT session), count(DISTINCT wording), "
        "count(DISTINCT wording) FILTER (len(clicked) > 0) FROM result_pages"
    ).fetchone()
    assert counted is not None
    pages, sessions, queries, clicked = counted
    yield (
        f"clicks of {source}: {pages:,} result pages in {sessions:,} sessions, {queries:,} queries ({clicked:,} with a "
        f"click)"
    )
    mean = f" of mean weight {weights.mean():.2f}" if kept else ""
    yield f"clicks of {source}: {kept:,} training pairs{mean}, of {int((clicks > 0).sum()):,} clicked pairs"


def _describe_propensity(source: str, propensity: np.ndarray, impressions: Impressions, *, estimated: bool) -> str:
    """Return the propensities as text, and log a warning if there are few informative clicks."""
    shown = ", ".join(f"{value:.2f}" for value in propensity[:_SHOWN_POSITIONS])
    informative = int(impressions.informative().clicks.sum())
    if estimated and informative < LEAST_INFORMATIVE:
        _log.warning(
            "clicks of %s: only %d clicks on passages that a query showed at several positions, so the correction "
            "assumes that users look at position k with probability 1/k. Collect more clicks under other rankings, or "
            "set [data.clicks] propensity.",
            *(source, informative),
        )
    origin = f"estimated from {informative:,} clicks" if estimated else "as set"
    return f"clicks of {source}: users look at positions 1, 2, … in proportion to {shown} ({origin})"
