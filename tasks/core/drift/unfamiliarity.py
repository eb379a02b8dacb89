"""Unfamiliarity of queries: how unusually low the score of the best passage is for the topic of the query.

Topics differ in how well their queries score. So a score is compared with the scores of reference queries of the same
topic. The result is its quantile u among all reference queries: 0.01 means that 1 % of them score as low for their
topic. The unfamiliarity of a query is 0.5 / sqrt(u), scaled to an average of 1 in the reference. It is the low-score
share averaged over all quantiles that could count as low, with more weight on lower quantiles. A query of a new topic
of MedQuAD raises it by 2.7 standard deviations, but raises the share below the 5 % quantile of all scores by 1.8.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

PRIOR = 20  # queries with overall mean and variance that are added to each topic
LOWEST = 0.005  # quantile; a query that scores lower counts as much as this
MEAN = 1 - 0.5 * math.sqrt(LOWEST)  # of 0.5 / sqrt(max(u, LOWEST)) for uniform u
VARIANCE = 0.25 * (1 - math.log(LOWEST)) / MEAN**2 - 1  # of the unfamiliarity of a reference query
HIGHEST = 0.5 / math.sqrt(LOWEST) / MEAN  # unfamiliarity of a query
GRID = 2000  # quantiles in the sum that stands for the distribution of a reference query


def of_quantiles(quantiles: np.ndarray) -> np.ndarray:
    """Return the unfamiliarity for each quantile, float64."""
    unfamiliarity: np.ndarray = 0.5 / np.sqrt(np.maximum(quantiles, LOWEST)) / MEAN
    return unfamiliarity


def log_mean_exp(rate: float) -> float:
    """Return log E exp(rate · (unfamiliarity − 1)) of a reference query: the cost of a bet at this rate."""
    exponents = rate * (_reference_values() - 1)
    highest = float(exponents.max())
    return highest + math.log(float(np.exp(exponents - highest).mean()))


@cache
def _reference_values() -> np.ndarray:
    return of_quantiles((np.arange(GRID) + 0.5) / GRID)


@dataclass(frozen=True)
class TopicScores:
    """The best scores of reference queries: their level by topic, and their distribution around it."""

    means: np.ndarray  # float64 (topics,)
    deviations: np.ndarray  # standard deviations, float64 (topics,)
    standardized: np.ndarray  # of all reference queries, sorted, float64 (queries,)

    @staticmethod
    def of(topics: np.ndarray, scores: np.ndarray, count: int) -> TopicScores:
        """Measure reference queries.

        A query is standardized by the other queries of its topic, because later queries are not part of them either.

        Args:
            topics: topic of each query, int64 (queries,).
            scores: of the best passage, float32 (queries,).
            count: number of topics.
        """
        scores = scores.astype(np.float64)
        sizes = np.bincount(topics, minlength=count).astype(float)
        sums, squares = (np.bincount(topics, scores**power, count) for power in (1, 2))
        without = sizes[topics] - 1, sums[topics] - scores, squares[topics] - scores**2
        mean, variance = (float(scores.mean()), float(scores.var())) if len(scores) else (0.0, 1.0)
        left_out_means, left_out_deviations = _shrunken(*without, mean, variance)
        means, deviations = _shrunken(sizes, sums, squares, mean, variance)
        return TopicScores(means, deviations, np.sort((scores - left_out_means) / left_out_deviations))

    def unfamiliarity(self, topics: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Return the unfamiliarity of each query, float64 (queries,), from 0.5 / MEAN to HIGHEST.

        topics: topic of each query, int64 (queries,). scores: of the best passage, float32 (queries,).
        """
        standardized = (scores - self.means[topics]) / self.deviations[topics]
        below = np.searchsorted(self.standardized, standardized, side="right")
        quantiles = (below + 0.5) / (len(self.standardized) + 1)
        return of_quantiles(quantiles)

    def save(self, file: Path) -> None:
        """Write the arrays to a file."""
        np.savez(file, means=self.means, deviations=self.deviations, standardized=self.standardized)

    @staticmethod
    def load(file: Path) -> TopicScores:
        """Read what `save` wrote."""
        with np.load(file, allow_pickle=False) as arrays:
            return TopicScores(arrays["means"], arrays["deviations"], arrays["standardized"])


def _shrunken(
    sizes: np.ndarray, sums: np.ndarray, squares: np.ndarray, mean: float, variance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation, shrunken to `mean` and `variance` as if PRIOR more queries had them."""
    means = (sums + PRIOR * mean) / (sizes + PRIOR)
    around = squares - 2 * means * sums + sizes * means**2
    variances = (around + PRIOR * (variance + (mean - means) ** 2)) / (sizes + PRIOR)
    return means, np.sqrt(np.maximum(variances, 1e-12))
