"""Promote or reject: paired statistics over held-out queries, with every reason in words."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from tasks.core.settings import GateSettings

MEASURE = "ndcg@10"


class Comparison(BaseModel):
    """The challenger's mean gain over one other system, with the interval of that mean."""

    model_config = ConfigDict(frozen=True)

    against: str
    difference: float  # nDCG@10, challenger − other
    low: float
    high: float
    queries: int


class Verdict(BaseModel):
    """What the gate decided and why; `reasons` reads as sentences, whatever the decision."""

    model_config = ConfigDict(frozen=True)

    promote: bool
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def decide(
    challenger: pa.Table,
    bm25: pa.Table,
    serving: pa.Table | None,
    settings: GateSettings,
    *,
    withdrawn: str | None = None,
) -> Verdict:
    """Judge a challenger by its per-query nDCG@10 against BM25 and, where there is one, the serving release.

    No worse than the serving release means: the lower end of the one-sided interval of the mean paired difference
    is above −margin (a non-inferiority test). Clearly worse than BM25 means: its upper end is below −margin.

    Args:
        challenger, bm25, serving: query_id and ndcg@10, one row a query, the same queries in the same order.
        settings: margin, confidence and the least number of queries.
        withdrawn: the release made of these very parts that a person rolled back; it is not promoted again by itself.
    """
    refusals: list[str] = []
    notes: list[str] = []
    comparisons: list[Comparison] = []
    if withdrawn is not None:
        refusals.append(
            f"it is release {withdrawn}, which was rolled back by hand (nightshift rollback --to brings it back)"
        )
    if challenger.num_rows < settings.min_queries:
        refusals.append(f"only {challenger.num_rows} held-out queries, at least {settings.min_queries} are needed")
    if serving is not None:
        ours = compare("serving release", challenger, serving, settings)
        comparisons.append(ours)
        no_worse = ours.low > -settings.margin
        (notes if no_worse else refusals).append(
            f"{'no worse' if no_worse else 'not shown to be no worse'} than the serving release: {_words(ours)}, "
            f"margin {settings.margin}"
        )
    floor = compare("BM25", challenger, bm25, settings)
    comparisons.append(floor)
    clearly_worse = floor.high < -settings.margin
    if clearly_worse and settings.bm25_floor:
        refusals.append(f"clearly worse than BM25: {_words(floor)}")
    else:
        notes.append(f"against BM25: {_words(floor)}")
    return Verdict(promote=not refusals, reasons=tuple(refusals or notes), comparisons=tuple(comparisons))


def compare(name: str, challenger: pa.Table, other: pa.Table, settings: GateSettings) -> Comparison:
    """Bootstrap the mean of the paired differences (Efron and Tibshirani, 1993, percentile interval)."""
    if challenger["query_id"].to_pylist() != other["query_id"].to_pylist():
        raise ValueError(f"the challenger and {name} were not measured on the same queries")
    difference = challenger[MEASURE].to_numpy() - other[MEASURE].to_numpy()
    rng = np.random.default_rng(settings.seed)
    means = np.array(
        [difference[rng.integers(0, len(difference), len(difference))].mean() for _ in range(settings.resamples)]
    )
    low, high = np.quantile(means, [1 - settings.confidence, settings.confidence])
    return Comparison(
        against=name,
        difference=float(difference.mean()),
        low=float(low),
        high=float(high),
        queries=len(difference),
    )


def _words(one: Comparison) -> str:
    return f"nDCG@10 {one.difference:+.4f} ({one.low:+.4f} to {one.high:+.4f}) on {one.queries} queries"
