"""Batches: which pairs and negatives meet in a step. A function of data, settings and step alone.

Texts of like length are not brought together on purpose: what passes through the transformer at once is sorted by
length inside a step (`Tower.forward`), which leaves next to no padding, and negatives of one's own length only are
another task than the one that is measured.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks.core.base.sections.training import TrainingSettings
from tasks.core.training.pairs import TrainingPairs

PATIENCE = 8  # batches that a pair may wait for company that is not related to it


@dataclass(frozen=True)
class Batch:
    """One step's rows for q queries and p passages.

    The first q passages are the queries' own positives; further positives and negatives follow.

    queries: int64 (q,); passages: int64 (p,); positive, known: bool (q, p), see `Relations`; teacher: float32 (q, p)
    or None.
    """

    queries: np.ndarray
    passages: np.ndarray
    positive: np.ndarray
    known: np.ndarray
    teacher: np.ndarray | None


def steps_in(data: TrainingPairs, settings: TrainingSettings) -> int:
    """Optimizer steps of a training run over the night's own pairs; at least one."""
    return steps_for(data.fresh, settings.batch_size - _replayed_in(data, settings), settings)


def steps_for(pairs: int, a_step: int, settings: TrainingSettings) -> int:
    """Optimizer steps over so many pairs, so many of them in a step; at least one."""
    steps = max(1, round(settings.epochs * pairs / a_step))
    return min(steps, settings.max_steps) if settings.max_steps else steps


def plan(data: TrainingPairs, settings: TrainingSettings, steps: int) -> np.ndarray:
    """Which pairs are in which step: int64 (steps, batch_size), numbers of pairs.

    Pairs are shuffled anew in each pass over them. A pair that would bring a known positive of another query into a
    batch (or a near duplicate of one), or whose own query's positive is there already, waits for a later batch. One
    that waited for eight batches goes in all the same: then the mask alone keeps it from being a false negative.
    """
    replayed = _replayed_in(data, settings)
    streams = [
        (_Waiting(_shuffled(0, data.fresh, settings.seed, 0)), settings.batch_size - replayed),
        (_Waiting(_shuffled(data.fresh, len(data.pairs), settings.seed, 2)), replayed),
    ]
    rows = np.empty((steps, settings.batch_size), np.int64)
    for step in range(steps):
        company = _Company(data)
        rows[step] = [pair for stream, wanted in streams for pair in stream.take(wanted, company.admits)]
    return rows


def batch_at(data: TrainingPairs, pairs: np.ndarray, settings: TrainingSettings, step: int) -> Batch:
    """The batch of a step: the same whatever ran before it, so that a resumed run sees what a straight one saw.

    pairs: int64 (q,), the step's row of the plan. Each query brings `more_positives` of its other positives and
    `hard_negatives` of its mined negatives, drawn at random; fewer when it has fewer.
    """
    rng = np.random.default_rng([settings.seed, 1, step])
    queries, own = data.pairs[pairs, 0], data.pairs[pairs, 1]
    extra = []
    for query, positive in zip(queries.tolist(), own.tolist(), strict=True):
        others = data.positives[query]
        extra.append(_draw(others[others != positive], settings.more_positives, rng))
        extra.append(_draw(data.negatives.get(query), settings.hard_negatives, rng))
    passages = np.concatenate([own, *extra])
    clusters = data.cluster[passages]
    return Batch(
        queries=queries,
        passages=passages,
        positive=np.stack([np.isin(passages, data.positives[query]) for query in queries.tolist()]),
        known=np.stack([np.isin(clusters, data.known[query]) for query in queries.tolist()]),
        teacher=_teacher(data, queries, passages) if data.teacher else None,
    )


class _Company:
    """The pairs of one batch so far, and who may join them."""

    def __init__(self, data: TrainingPairs) -> None:
        self._data = data
        self._present: set[int] = set()  # clusters of the positives that are in the batch
        self._claimed: set[int] = set()  # clusters that are known positives of a query in the batch

    def admits(self, pair: int, *, always: bool = False) -> bool:
        """Take the pair in unless it is related to one that is there."""
        query, passage = self._data.pairs[pair].tolist()
        cluster, known = int(self._data.cluster[passage]), self._data.known[query].tolist()
        if not always and (cluster in self._claimed or not self._present.isdisjoint(known)):
            return False
        self._present.add(cluster)
        self._claimed.update(known)
        return True


class _Waiting:
    """An endless stream of pairs in which those that were turned away come first."""

    def __init__(self, stream: Iterator[int]) -> None:
        self._stream = stream
        self._queue: deque[tuple[int, int]] = deque()  # pair, batches it was turned away from

    def take(self, wanted: int, admits: Callable[..., bool]) -> list[int]:
        """The next so many pairs that are admitted, those that waited too long without being asked."""
        taken: list[int] = []
        waiting, self._queue = self._queue, deque()
        looked = 0
        while len(taken) < wanted:
            pair, waited = waiting.popleft() if waiting else (next(self._stream), 0)
            looked += 1
            tired = waited >= PATIENCE or looked > PATIENCE * wanted
            if admits(pair, always=tired):
                taken.append(pair)
            else:
                self._queue.append((pair, waited + 1))
        self._queue.extend(waiting)
        return taken


def _replayed_in(data: TrainingPairs, settings: TrainingSettings) -> int:
    """Replayed pairs in a batch; one place at least is the night's own."""
    there = len(data.pairs) > data.fresh
    return min(round(settings.replay * settings.batch_size), settings.batch_size - 1) if there else 0


def _shuffled(start: int, end: int, seed: int, stream: int) -> Iterator[int]:
    """The numbers from `start` to `end`, shuffled, again and again."""
    turn = 0
    while True:
        yield from (start + np.random.default_rng([seed, stream, turn]).permutation(end - start)).tolist()
        turn += 1


def _draw(rows: np.ndarray | None, wanted: int, rng: np.random.Generator) -> np.ndarray:
    if rows is None or wanted == 0:
        return np.zeros(0, np.int64)
    return rng.choice(rows, size=min(wanted, len(rows)), replace=False)


def _teacher(data: TrainingPairs, queries: np.ndarray, passages: np.ndarray) -> np.ndarray:
    """The teacher's scores of the batch, NaN where it gave none."""
    scores = np.full((len(queries), len(passages)), np.nan, np.float32)
    for place, query in enumerate(queries.tolist()):
        if query in data.teacher:
            rows, values = data.teacher[query]
            at = np.searchsorted(rows, passages).clip(max=len(rows) - 1)
            scores[place] = np.where(rows[at] == passages, values[at], np.nan)
    return scores
