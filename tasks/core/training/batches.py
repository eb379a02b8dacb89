"""Batches: the pairs and negatives of each step. They depend only on data, settings, and step.

Batches are not grouped by text length. `Tower.forward` sorts texts by length inside a step, which leaves almost no
padding, and negatives of similar length only would differ from the task that is evaluated.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.core.base.sections.training import LEAST_STEPS, TrainingSettings
from tasks.core.training.pairs import TrainingPairs

PATIENCE = 8  # batches that a pair may be postponed because the batch holds a related pair


@dataclass(frozen=True)
class Batch:
    """Rows of one step, for q queries and p passages.

    The first q passages are the positives of the queries' pairs. More positives and negatives follow.

    queries: int64 (q,); passages: int64 (p,); positive, known: bool (q, p), see `Relations`; teacher: float32 (q, p)
    or None; weight: float32 (q,), the weights of the pairs, or None if they are equal.
    """

    queries: np.ndarray
    passages: np.ndarray
    positive: np.ndarray
    known: np.ndarray
    teacher: np.ndarray | None
    weight: np.ndarray | None = None


def steps_in(data: TrainingPairs, settings: TrainingSettings) -> int:
    """Return the number of optimizer steps over this snapshot's pairs (without replayed pairs); at least 1."""
    return steps_for(max(data.fresh, data.drawn), settings.batch_size - _replayed_in(data, settings), settings)


def steps_for(pairs: int, pairs_per_step: int, settings: TrainingSettings) -> int:
    """Return the number of optimizer steps over `pairs` pairs; at least 1."""
    steps = max(1, round((settings.epochs or 1.0) * pairs / pairs_per_step))
    steps = steps if settings.epochs else max(steps, LEAST_STEPS)
    return min(steps, settings.max_steps) if settings.max_steps else steps


def plan(data: TrainingPairs, settings: TrainingSettings, steps: int) -> np.ndarray:
    """Assign pairs to steps.

    Pairs are shuffled again in each epoch. A pair is postponed to a later batch if its passage is a known positive (or
    a near duplicate of one) of another query in the batch, or if the batch already has a known positive of its query.
    After `PATIENCE` batches it is admitted anyway. The loss still masks it, so it is never a false negative.

    Returns:
        Indices of pairs, int64 (steps, batch_size).
    """
    replayed = _replayed_in(data, settings)
    streams = [
        (_PairStream(_shuffled(0, data.fresh, settings.seed, 0)), settings.batch_size - replayed),
        (_PairStream(_shuffled(data.fresh, len(data.pairs), settings.seed, 2)), replayed),
    ]
    rows = np.empty((steps, settings.batch_size), np.int64)
    for step in range(steps):
        batch = _BatchPairs(data)
        rows[step] = [pair for stream, count in streams for pair in stream.take(count, batch.admit)]
    return rows


def batch_at(data: TrainingPairs, pairs: np.ndarray, settings: TrainingSettings, step: int) -> Batch:
    """Build the batch of a step. It does not depend on earlier steps, so a resumed run builds the same batches.

    Each query adds up to `more_positives` of its other positives and `hard_negatives` of its mined negatives, drawn
    at random.

    Args:
        data: training pairs.
        pairs: int64 (q,), the step's row of the plan.
        settings: `[training]`.
        step: index of the step, from 0; seeds the draws.
    """
    rng = np.random.default_rng([settings.seed, 1, step])
    queries, positives = data.pairs[pairs, 0], data.pairs[pairs, 1]
    extra = []
    for query, positive in zip(queries.tolist(), positives.tolist(), strict=True):
        known = data.positives[query]
        extra.append(_draw(known[known != positive], settings.more_positives, rng))
        extra.append(_draw(data.negatives.get(query), settings.hard_negatives, rng))
    passages = np.concatenate([positives, *extra])
    clusters, weight = data.cluster[passages], data.weight[pairs]
    return Batch(
        queries=queries,
        passages=passages,
        positive=np.stack([np.isin(passages, data.positives[query]) for query in queries.tolist()]),
        known=np.stack([np.isin(clusters, data.known[query]) for query in queries.tolist()]),
        teacher=_teacher(data, queries, passages) if data.teacher else None,
        weight=None if (weight == weight[0]).all() else weight,
    )


class _BatchPairs:
    """The pairs of a batch so far; decides which pairs may join."""

    def __init__(self, data: TrainingPairs) -> None:
        self._data = data
        self._present: set[int] = set()  # clusters of the positives that are in the batch
        self._claimed: set[int] = set()  # clusters that are known positives of a query in the batch

    def admit(self, pair: int, *, always: bool = False) -> bool:
        """Add the pair unless it is related to a pair of the batch; return whether it was added."""
        query, passage = self._data.pairs[pair].tolist()
        cluster, known = int(self._data.cluster[passage]), self._data.known[query].tolist()
        if not always and (cluster in self._claimed or not self._present.isdisjoint(known)):
            return False
        self._present.add(cluster)
        self._claimed.update(known)
        return True


class _PairStream:
    """An endless stream of pairs that returns postponed pairs first."""

    def __init__(self, stream: Iterator[int]) -> None:
        self._stream = stream
        self._queue: deque[tuple[int, int]] = deque()  # pair, number of batches that refused it

    def take(self, count: int, admit: Callable[..., bool]) -> list[int]:
        """Return the next `count` admitted pairs. Pairs that waited too long are admitted always."""
        taken: list[int] = []
        waiting, self._queue = self._queue, deque()
        tried = 0
        while len(taken) < count:
            pair, waited = waiting.popleft() if waiting else (next(self._stream), 0)
            tried += 1
            overdue = waited >= PATIENCE or tried > PATIENCE * count
            if admit(pair, always=overdue):
                taken.append(pair)
            else:
                self._queue.append((pair, waited + 1))
        self._queue.extend(waiting)
        return taken


def _replayed_in(data: TrainingPairs, settings: TrainingSettings) -> int:
    """Return the number of replayed pairs per batch; at least one pair of a batch is from this snapshot."""
    has_replayed = len(data.pairs) > data.fresh
    return min(round(settings.replay * settings.batch_size), settings.batch_size - 1) if has_replayed else 0


def _shuffled(start: int, end: int, seed: int, stream: int) -> Iterator[int]:
    """Yield the integers from `start` to `end` - 1 forever, shuffled again in each epoch."""
    epoch = 0
    while True:
        yield from (start + np.random.default_rng([seed, stream, epoch]).permutation(end - start)).tolist()
        epoch += 1


def _draw(rows: np.ndarray | None, count: int, rng: np.random.Generator) -> np.ndarray:
    if rows is None or count == 0:
        return np.zeros(0, np.int64)
    return rng.choice(rows, size=min(count, len(rows)), replace=False)


def _teacher(data: TrainingPairs, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """Return the teacher's scores, float32 (q, p); NaN where there is no score."""
    scores = np.full((len(queries), len(passages)), np.nan, np.float32)
    for row, query in enumerate(queries.tolist()):
        if query in data.teacher:
            rows, values = data.teacher[query]
            at = np.searchsorted(rows, passages).clip(max=len(rows) - 1)
            scores[row] = np.where(rows[at] == passages, values[at], np.nan)
    return scores
