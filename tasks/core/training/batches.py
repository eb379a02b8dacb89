"""Batches: which pairs and negatives meet in a step. A function of data, seed and step alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tasks.core.settings import TrainingSettings
from tasks.core.training.pairs import TrainingPairs


@dataclass(frozen=True)
class Batch:
    """One step's rows. The first len(queries) passages are the queries' own positives, negatives follow.

    queries: int64 (q,) rows; passages: int64 (p,) rows; known: bool (q, p), see `infonce`.
    """

    queries: np.ndarray
    passages: np.ndarray
    known: np.ndarray


def steps_in(pairs: int, settings: TrainingSettings) -> int:
    """Optimizer steps of a training run over so many pairs; at least one."""
    steps = max(1, round(settings.epochs * pairs / settings.batch_size))
    return min(steps, settings.max_steps) if settings.max_steps else steps


def batch_at(data: TrainingPairs, settings: TrainingSettings, step: int) -> Batch:
    """The batch of a step: the same whatever ran before it, so that a resumed run sees what a straight one saw.

    Pairs are shuffled anew in each pass over them; the last short batch of a pass goes on into the next pass.
    Each query brings `hard_negatives` of its mined negatives, drawn at random; fewer when it has fewer.
    """
    size, count = settings.batch_size, len(data.pairs)
    places = np.arange(step * size, (step + 1) * size)
    chosen = np.concatenate(
        [
            _shuffled(count, settings.seed, turn)[places[places // count == turn] % count]
            for turn in np.unique(places // count)
        ]
    )
    rng = np.random.default_rng([settings.seed, 1, step])
    queries, positives = data.pairs[chosen, 0], data.pairs[chosen, 1]
    negatives = [_draw(data.negatives.get(int(query)), settings.hard_negatives, rng) for query in queries]
    passages = np.concatenate([positives, *negatives])
    classes = data.text_class[passages]
    known = np.stack([np.isin(classes, data.known[int(query)]) for query in queries])
    return Batch(queries, passages, known)


def _shuffled(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, 0, turn]).permutation(count)


def _draw(rows: np.ndarray | None, wanted: int, rng: np.random.Generator) -> np.ndarray:
    if rows is None or wanted == 0:
        return np.zeros(0, np.int64)
    return rng.choice(rows, size=min(wanted, len(rows)), replace=False)
