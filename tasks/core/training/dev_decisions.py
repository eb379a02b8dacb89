"""Decisions based on dev queries: the best step, when to stop, and whether training made the encoder worse."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from tasks.core.base.sections.evaluation import GateSettings
from tasks.core.evaluation.significance import interval
from tasks.core.training.checkpoint import Progress, Weights

log = logging.getLogger("nightshift.training")

RULES = GateSettings()  # for the interval; the defaults, because training must not depend on the gate's settings
COLLAPSE = 0.1  # nDCG@10; with fewer queries than the gate needs, a smaller drop is attributed to chance


class Best(NamedTuple):
    """The best of several alternatives to a default: its gain in mean nDCG@10, and the standard error of the gain."""

    name: str
    gain: float
    error: float

    @property
    def pays(self) -> bool:
        """Whether the gain exceeds its standard error."""
        return self.gain > self.error


def best_alternative(values: Mapping[str, np.ndarray], default: str) -> Best:
    """Compare alternatives with a default on the same dev queries; the first of equal alternatives counts.

    Args:
        values: nDCG@10 of each query, float64 (queries,), by name; at least the default and one alternative.
        default: a name in `values`.
    """
    best = max((name for name in values if name != default), key=lambda name: float(values[name].mean()))
    gain = values[best] - values[default]
    return Best(best, float(gain.mean()), float(gain.std(ddof=1) / np.sqrt(len(gain))))


def record_start(progress: Progress, values: np.ndarray) -> None:
    """Record nDCG@10 of the dev queries, float64 (queries,), before the first step."""
    progress.dev.append((0, float(values.mean())))
    progress.start = values.tolist()


def record_step(progress: Progress, values: np.ndarray, weights: Callable[[], Weights]) -> None:
    """Record nDCG@10 of the dev queries after a step; keep the weights if this step is the best so far."""
    ndcg = float(values.mean())
    if all(ndcg > value for step, value in progress.dev if step > 0):
        progress.best = weights()
    progress.dev.append((progress.steps, ndcg))
    if is_below(values, np.array(progress.start)):
        progress.below.append(progress.steps)
    log.info("Step %d: dev nDCG@10 %.4f (%.4f at step 0)", progress.steps, ndcg, progress.dev[0][1])


def is_below(values: np.ndarray, start: np.ndarray) -> bool:
    """Return whether nDCG@10 of the same queries is significantly lower than at the start."""
    if len(start) != len(values):  # checkpoints of earlier versions have no start values
        return False
    differences = values - start
    least = 0.0 if len(values) >= RULES.min_queries else COLLAPSE
    return bool(differences.mean() < -least and interval(differences, RULES)[1] < 0)


def best_step(progress: Progress) -> int:
    """Return the step after step 0 with the highest mean; the first if several are equal."""
    return max(((step, ndcg) for step, ndcg in progress.dev if step > 0), key=lambda entry: entry[1])[0]


def is_finished(progress: Progress, patience: int) -> bool:
    """Return whether the last `patience` evaluations did not improve, or were all below the start."""
    if progress.best is None:
        return False
    steps = [step for step, _ in progress.dev if step > 0]
    waited = sum(step > best_step(progress) for step in steps)
    return waited >= patience or (len(steps) >= patience and set(steps[-patience:]) <= set(progress.below))


def step_to_keep(progress: Progress) -> int:
    """Return the step whose weights are kept.

    This is the best step, step 0 if even the best step is significantly worse than the start, or the last step if
    there are no dev queries. A step that is not significantly worse than step 0 is kept, because the gate compares
    both on the held-out queries.
    """
    if progress.best is None:
        return progress.steps
    best, ndcg = best_step(progress), dict(progress.dev)
    if best in progress.below:
        log.warning(
            "Training did not improve on step 0 (dev nDCG@10 %.4f): the best later step is %d with %.4f. "
            "Keeping the weights of step 0.",
            *(ndcg[0], best, ndcg[best]),
        )
        return 0
    log.info("Keeping the weights of step %d (dev nDCG@10 %.4f; %.4f at step 0)", best, ndcg[best], ndcg[0])
    return best
