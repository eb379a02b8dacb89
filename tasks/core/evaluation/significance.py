"""Is a difference between two systems more than chance? The paired bootstrap over queries."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from scipy.stats import bootstrap

from tasks.core.base.settings import GateSettings

MEASURE = "ndcg@10"
DRAWN_AT_ONCE = 2_000_000  # differences in memory: 16 MB


class Comparison(BaseModel):
    """The mean gain of one system over another, with the interval of that mean."""

    model_config = ConfigDict(frozen=True)

    against: str
    difference: float  # nDCG@10, ours − theirs
    low: float  # each end is one-sided: the true mean lies below it with probability 1 − confidence
    high: float
    queries: int

    def __str__(self) -> str:
        return f"nDCG@10 {self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f}) on {self.queries} queries"


def compare_paired(
    against: str,
    ours: pa.Table,
    theirs: pa.Table,
    settings: GateSettings,
    *,
    chosen: np.ndarray | None = None,
    confidence: float | None = None,
) -> Comparison:
    """Bootstrap the mean of the paired differences (Efron and Tibshirani, 1993, percentile interval).

    Args:
        against: what the other system is called.
        ours, theirs: query_id and ndcg@10, one row a query, the same queries in the same order.
        settings: confidence, number of resamples and their seed.
        chosen: bool (queries,), only these are looked at; at least one. None: all.
        confidence: of each end, in place of the settings'.

    Raises:
        ValueError: the two were not measured on the same queries.
    """
    if ours["query_id"].to_pylist() != theirs["query_id"].to_pylist():
        raise ValueError(f"the challenger and {against} were not measured on the same queries")
    difference = ours[MEASURE].to_numpy() - theirs[MEASURE].to_numpy()
    if chosen is not None:
        difference = difference[chosen]
    low, high = interval(difference, settings, confidence)
    return Comparison(against=against, difference=float(difference.mean()), low=low, high=high, queries=len(difference))


def interval(differences: np.ndarray, settings: GateSettings, confidence: float | None = None) -> tuple[float, float]:
    """Ends of the bootstrap interval of the mean of paired differences, float64 (queries,); each end is one-sided.

    confidence: of each end, in place of the settings'.
    """
    sure = settings.confidence if confidence is None else confidence
    resampled = bootstrap(
        (np.resize(differences, max(2, len(differences))),),  # scipy wants two; a lone query resamples to itself
        np.mean,
        n_resamples=settings.resamples,
        batch=max(1, DRAWN_AT_ONCE // len(differences)),
        confidence_level=2 * sure - 1,
        method="percentile",
        rng=np.random.default_rng(settings.seed),
    ).confidence_interval
    return float(resampled.low), float(resampled.high)
