"""Test whether two systems differ by more than chance, with the paired bootstrap over queries."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict
from scipy.stats import bootstrap

from tasks.core.base.measure_names import DEFAULT, label_of
from tasks.core.base.sections.evaluation import GateSettings

MEASURE = DEFAULT
DRAWN_AT_ONCE = 2_000_000  # differences in memory: 16 MB


class Comparison(BaseModel):
    """The mean gain of one system over another, with its bootstrap interval."""

    model_config = ConfigDict(frozen=True)

    against: str
    difference: float  # of the measure, ours − theirs
    low: float  # one-sided, as is `high`: the true mean is below `low` with probability 1 − confidence
    high: float
    queries: int
    measure: str = "nDCG@10"  # label

    def __str__(self) -> str:
        return f"{self.measure} {self.difference:+.4f} ({self.low:+.4f} to {self.high:+.4f}) on {self.queries} queries"


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
        against: name of the other system.
        ours, theirs: query_id and the measure of the settings, one row per query, the same queries in the same order.
        settings: measure, confidence, number of resamples, and their seed.
        chosen: bool (queries,), the queries to compare, at least one. None: all.
        confidence: of each end; overrides the settings.

    Raises:
        ValueError: the systems were not measured on the same queries.
    """
    if ours["query_id"].to_pylist() != theirs["query_id"].to_pylist():
        raise ValueError(f"the challenger and {against} were not measured on the same queries")
    name = settings.measure
    difference = ours[name].to_numpy() - theirs[name].to_numpy()
    if chosen is not None:
        difference = difference[chosen]
    low, high = interval(difference, settings, confidence)
    return Comparison(
        against=against,
        difference=float(difference.mean()),
        low=low,
        high=high,
        queries=len(difference),
        measure=label_of(name),
    )


def interval(differences: np.ndarray, settings: GateSettings, confidence: float | None = None) -> tuple[float, float]:
    """Return the bootstrap interval of the mean of paired differences, float64 (queries,); each end is one-sided.

    confidence: of each end; overrides the settings.
    """
    one_sided = settings.confidence if confidence is None else confidence
    resampled = bootstrap(
        (np.resize(differences, max(2, len(differences))),),  # SciPy needs two; a single query resamples to itself
        np.mean,
        n_resamples=settings.resamples,
        batch=max(1, DRAWN_AT_ONCE // len(differences)),
        confidence_level=2 * one_sided - 1,
        method="percentile",
        rng=np.random.default_rng(settings.seed),
    ).confidence_interval
    return float(resampled.low), float(resampled.high)
