"""What dev queries say about a training: the best step, when to stop, and whether it fell below where it began."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from tasks.core.base.settings import GateSettings
from tasks.core.evaluation.significance import interval
from tasks.core.training.checkpoint import Progress, Weights

log = logging.getLogger("nightshift.training")

RULES = GateSettings()  # of the interval: a training does not depend on how the gate is set
COLLAPSE = 0.1  # nDCG@10; on fewer queries than the gate needs, a smaller loss is taken for chance


def record_start(progress: Progress, values: np.ndarray) -> None:
    """Note nDCG@10 of the dev queries, float64 (queries,), before the first step."""
    progress.dev.append((0, float(values.mean())))
    progress.start = values.tolist()


def record_step(progress: Progress, values: np.ndarray, weights: Callable[[], Weights]) -> None:
    """Note nDCG@10 of the dev queries after a step, and keep the weights when no earlier step was better."""
    ndcg = float(values.mean())
    if all(ndcg > value for step, value in progress.dev if step > 0):
        progress.best = weights()
    progress.dev.append((progress.steps, ndcg))
    if is_below(values, np.array(progress.start)):
        progress.below.append(progress.steps)
    log.info("Step %d: dev nDCG@10 %.4f (%.4f at step 0)", progress.steps, ndcg, progress.dev[0][1])


def is_below(values: np.ndarray, start: np.ndarray) -> bool:
    """Whether nDCG@10 of the same queries is lower than at the start by more than chance."""
    if len(start) != len(values):  # a checkpoint of an earlier version lacks the values of the start
        return False
    differences = values - start
    least = 0.0 if len(values) >= RULES.min_queries else COLLAPSE
    return bool(differences.mean() < -least and interval(differences, RULES)[1] < 0)


def best_step(progress: Progress) -> int:
    """The step after the start with the highest mean; of equal ones the first."""
    return max((look for look in progress.dev if look[0] > 0), key=lambda look: look[1])[0]


def is_finished(progress: Progress, patience: int) -> bool:
    """Whether the last `patience` evaluations brought nothing better, or were all below the start."""
    if progress.best is None:
        return False
    steps = [step for step, _ in progress.dev if step > 0]
    waited = sum(step > best_step(progress) for step in steps)
    return waited >= patience or (len(steps) >= patience and set(steps[-patience:]) <= set(progress.below))


def step_to_keep(progress: Progress) -> int:
    """The step whose weights are kept: the best, 0 where even that is below the start, the last without dev queries.

    Step 0 is a candidate like the others. A later step within chance of it is kept: the gate compares the two on the
    held-out queries.
    """
    if progress.best is None:
        return progress.steps
    best, figures = best_step(progress), dict(progress.dev)
    if best in progress.below:
        log.warning(
            "Training did not improve on step 0 (dev nDCG@10 %.4f): the best later step is %d with %.4f. "
            "Keeping the weights of step 0.",
            *(figures[0], best, figures[best]),
        )
        return 0
    log.info("Keeping the weights of step %d (dev nDCG@10 %.4f; %.4f at step 0)", best, figures[best], figures[0])
    return best
