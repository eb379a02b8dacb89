"""Compare a teacher with the encoder that mines, before its scores are used: a worse teacher must not teach.

Mined negatives would not do for that: the margin filter has removed those that the encoder itself ranks too high. The
check uses the known positives of dev queries and other passages that rank high, with no filter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from tasks.core.base.mining_checks import TeacherCheck
from tasks.core.base.ranking import Ranking
from tasks.core.base.receipts import Embeddings, Encoder, Postings, Snapshot
from tasks.core.mining.candidates import known_positives
from tasks.core.mining.choice import ScorePairs
from tasks.core.mining.filters import pair_keys
from tasks.core.mining.random_draws import draw_random_candidates
from tasks.core.mining.teachers import ScorerOf, Teacher
from tasks.core.retrieval.arms import Arms, score_arms
from tasks.core.retrieval.exact import score_pairs
from tasks.core.retrieval.query_vectors import encoder_vectors
from tasks.core.retrieval.runs import vectors_of
from tasks.core.snapshot.reader import judged
from tasks.core.snapshot.splits import Split
from tasks.core.text.shingles import expand

MAX_QUERIES = 200
MIN_DEV_QUERIES = 20  # with fewer dev queries, training queries are used
TOP = 10  # best passages of each rival ranking
RANDOM = 10  # random passages: without a hit of BM25, they are all that is compared


@dataclass(frozen=True)
class CheckInputs:
    """What the check of a teacher needs, in addition to the teacher."""

    home: Path
    snapshot: Snapshot
    encoder: Encoder  # that mines
    embeddings: Embeddings  # of this encoder
    postings: Postings
    bm25: Ranking  # parameters of BM25
    leave_out_self: bool = False


@dataclass(frozen=True)
class CheckedTeacher:
    """A teacher that scores training pairs only if it is better than the encoder that mines."""

    teacher: Teacher
    inputs: CheckInputs

    @property
    def key(self) -> dict[str, object]:
        """All that determines its scores and the result of the check, in addition to the inputs of mining."""
        return {**self.teacher.key, **({"leave_out_self": True} if self.inputs.leave_out_self else {})}

    def prepare(
        self, training_queries: pa.Table, vectors: np.ndarray, seed: int
    ) -> tuple[TeacherCheck, ScorePairs | None]:
        """Check the teacher; return the result, and a scorer of the training queries if it is accepted.

        training_queries: query_id, text. vectors: float32 (queries, dimension), from the encoder that mines.
        """
        scorer_of = self.teacher.load()
        check = check_teacher(self.teacher, scorer_of, self.inputs, seed)
        return check, scorer_of(training_queries, vectors) if check.accepted else None


def check_teacher(teacher: Teacher, scorer_of: ScorerOf, inputs: CheckInputs, seed: int) -> TeacherCheck:
    """Measure the accuracy of the teacher and of the encoder on the same pairs, and the spread of its scores.

    The pairs are known positives with ten random passages and the ten best other passages of each ranking in
    `teacher.rivals`, for up to 200 dev queries. The queries and the random passages are drawn by `seed`. A blend and
    the encoder are both compared on what either ranks high; any other teacher on what BM25 ranks high. With fewer than
    20 dev queries, training queries are used.
    """
    snapshot, embeddings = inputs.snapshot, inputs.embeddings
    split = Split.DEV if snapshot.splits.get(Split.DEV, 0) >= MIN_DEV_QUERIES else Split.TRAIN
    queries = _sampled(judged(snapshot, split), seed)
    vectors = vectors_of(lazy := encoder_vectors(inputs.encoder, queries))
    arms = Arms(score_arms(inputs.home, queries, lazy, embeddings, inputs.postings, inputs.bm25))
    best = _top_passages(arms, teacher.rivals, leave_out_self=inputs.leave_out_self)
    drawn = draw_random_candidates(queries["query_id"].to_pylist(), 0, RANDOM, snapshot.rows, seed, source=0)
    query, passage = np.unique(np.concatenate([best, np.stack([drawn.query, drawn.passage])], axis=1), axis=1)
    pairs = CheckedPairs.of(query, passage, *known_positives(snapshot, queries))
    encoder_scores = score_pairs(vectors, embeddings, pairs.query, pairs.passage)
    teacher_scores = scorer_of(queries, vectors)(pairs.query, pairs.passage)
    return TeacherCheck(
        teacher=teacher.name,
        split=split,
        queries=queries.num_rows,
        pairs=len(pairs.other),
        accuracy=pairs.accuracy(teacher_scores),
        encoder_accuracy=pairs.accuracy(encoder_scores),
        spread=pairs.spread(teacher_scores),
        encoder_spread=pairs.spread(encoder_scores),
    )


@dataclass(frozen=True)
class CheckedPairs:
    """Queries with known positives and other passages.

    query, passage: int64 (n,), what is scored. positive, other: int64 (m,), numbers of scored pairs: every positive
    with every other passage of its query.
    """

    query: np.ndarray
    passage: np.ndarray
    positive: np.ndarray
    other: np.ndarray

    @classmethod
    def of(
        cls, query: np.ndarray, passage: np.ndarray, positive_query: np.ndarray, positive_passage: np.ndarray
    ) -> CheckedPairs:
        """Combine ranked passages with known positives, which are sorted by query."""
        unknown = ~np.isin(pair_keys(query, passage), pair_keys(positive_query, positive_passage))
        query, passage = query[unknown], passage[unknown]
        low = np.searchsorted(positive_query, query, "left")
        positive, owner = expand(low, np.searchsorted(positive_query, query, "right") - low)
        return cls(
            np.concatenate([positive_query, query]),
            np.concatenate([positive_passage, passage]),
            positive,
            len(positive_query) + owner,
        )

    def accuracy(self, scores: np.ndarray) -> float:
        """Return the share of pairs in the right order, averaged over queries; 0 without a pair."""
        gap = scores[self.positive] - scores[self.other]
        right = np.where(gap == 0, 0.5, gap > 0)
        query = self.query[self.other]
        counts = np.bincount(query)
        shares = np.bincount(query, right)[counts > 0] / counts[counts > 0]
        return round(float(shares.mean()), 4) if len(shares) else 0.0

    def spread(self, scores: np.ndarray) -> float:
        """Return the standard deviation of the scores around the mean of their query; 0 without a score."""
        if len(scores) == 0:
            return 0.0
        means = np.bincount(self.query, scores) / np.maximum(np.bincount(self.query), 1)
        return float(f"{np.sqrt(np.mean((scores - means[self.query]) ** 2)):.4g}")


def _sampled(queries: pa.Table, seed: int) -> pa.Table:
    count = queries.num_rows
    rows = np.random.default_rng(seed).choice(count, min(MAX_QUERIES, count), replace=False)
    return queries.take(pa.array(np.sort(rows))) if count > MAX_QUERIES else queries


def _top_passages(arms: Arms, rivals: Sequence[Ranking], *, leave_out_self: bool) -> np.ndarray:
    """Return the ten best passages of each ranking: query rows and passage rows, int64 (2, n)."""
    best = []
    for ranking in rivals:
        order = arms.order(ranking)
        if leave_out_self:
            order = order[~arms.is_own()[order]]
        query = arms.query[order]
        best.append(order[np.arange(len(order)) - np.searchsorted(query, query) < TOP])
    rows = np.unique(np.concatenate(best))
    return np.stack([arms.query[rows], arms.row[rows]])
