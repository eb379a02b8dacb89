"""Compute nDCG@10, MRR@10, Recall@100, and MAP@100 per query as trec_eval does; an unanswered query scores 0."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from tasks.core.base.measure_names import LABELS

NAMES = LABELS  # stored name -> label; ir_measures reads the labels as RR@10, R@100, and AP@100


def per_query(run: pa.Table, qrels: pa.Table) -> pa.Table:
    """Measure every query of `qrels`.

    Args:
        run: query_id, passage_id, rank (1 is best). The order is the rank, regardless of the scores.
        qrels: query_id, passage_id, relevance.

    Returns:
        query_id (string, sorted) and one float64 column per measure, in [0, 1].
    """
    return calculate(list(NAMES), run, qrels)


def calculate(names: Sequence[str], run: pa.Table, qrels: pa.Table) -> pa.Table:
    """Compute these measures, stored ones or those of ir-measures, as `per_query` does."""
    import ir_measures

    judged: dict[str, dict[str, int]] = defaultdict(dict)
    for query, passage, relevance in _rows(qrels, "query_id", "passage_id", "relevance"):
        judged[query][passage] = relevance
    ranked: dict[str, dict[str, float]] = defaultdict(dict)
    for query, passage, rank in _rows(run, "query_id", "passage_id", "rank"):
        if query in judged:
            ranked[query][passage] = -float(rank)
    measures = {ir_measures.parse_measure(NAMES.get(name, name)): name for name in names}
    values: dict[str, dict[str, float]] = {query: dict.fromkeys(names, 0.0) for query in sorted(judged)}
    for result in ir_measures.iter_calc(list(measures), judged, ranked):
        values[result.query_id][measures[result.measure]] = result.value
    columns = {name: [value[name] for value in values.values()] for name in names}
    return pa.table({"query_id": pa.array(values, pa.string()), **columns})


def means(table: pa.Table) -> dict[str, float]:
    """Return the mean of every measure over all queries of a `per_query` table; 0 without queries."""
    return {name: float(table[name].to_numpy().mean()) if table.num_rows else 0.0 for name in NAMES}


def _rows(table: pa.Table, *names: str) -> Iterator[tuple[Any, ...]]:
    return zip(*(table[name].to_pylist() for name in names), strict=True)
