"""The worlds of the study of drift: a reference, normal queries, and shifts, each query asked once and for all."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from drift_vectors import Collection, Vectors, best, month_of, noisy, read, topics

from tasks.core.base.receipts import Reference
from tasks.core.drift.findings import LOW
from tasks.core.drift.topics import nearest, shares_of, topics_of
from tasks.core.text.words import hashed, vocabulary, words_of
from tasks.core.text.words import known as are_known

HELD_BACK, REFERENCE = 0.3, 0.15  # shares of MedQuAD's topics: that come as new ones, that the reference is made of
OLD_MONTHS = ("2503", "2504", "2505", "2506")
LATER_MONTHS = ("2507", "2509", "2512", "2603", "2606")
MIXES = 20
DAMAGED = 3000  # queries that are damaged at each rate
RATES = (0.01, 0.02, 0.05, 0.1)  # of letters


@dataclass(frozen=True)
class Pool:
    """Queries, as far as drift looks at them; arrays of one length."""

    scores: np.ndarray  # of the best passage, float32
    usual_low: np.ndarray  # how often a query of its topic scores low, float64
    unseen: np.ndarray  # terms that nothing knows, int64
    terms: np.ndarray  # all terms, int64
    recalls: np.ndarray  # Recall@10, float64; NaN: not judged

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def judged(self) -> np.ndarray:
        """Recall@10 of those that are judged."""
        found: np.ndarray = self.recalls[~np.isnan(self.recalls)]
        return found

    def at(self, rows: np.ndarray) -> Pool:
        """These rows, a row as often as it is named."""
        return Pool(*(getattr(self, one.name)[rows] for one in fields(self)))

    @staticmethod
    def joined(pools: Sequence[Pool]) -> Pool:
        """All of them in one."""
        return Pool(*(np.concatenate([getattr(pool, one.name) for pool in pools]) for one in fields(Pool)))


@dataclass(frozen=True)
class World:
    """One collection, what serves it, and what may come."""

    name: str
    reference: Reference
    normal: Pool
    clusters: list[np.ndarray]  # rows of `normal`
    shifts: list[tuple[str, Pool, float]]  # name, queries, their share

    @property
    def usual_mix(self) -> np.ndarray:
        """Shares of the clusters, float64."""
        sizes = np.array([len(one) for one in self.clusters])
        mix: np.ndarray = sizes / sizes.sum()
        return mix

    def figures(self, pool: Pool) -> tuple[float, float]:
        """Low-score share and unseen-term share of all of a pool."""
        low = float((pool.scores < self.reference.low_score).mean() - pool.usual_low.mean()) + LOW
        return low, float(pool.unseen.sum() / pool.terms.sum())

    def described(self) -> str:
        """The world in one line."""
        one = self.reference
        return (
            f"Reference: {one.rows:,} queries, low score {one.low_score:.3f}, unseen terms {one.unseen_terms:.2%}, "
            f"Recall@10 {one.recall:.3f}. Normal queries: {len(self.normal):,}, low-score share "
            f"{self.figures(self.normal)[0]:.1%}."
        )


def worlds(data: Path, kept: Path, precision: str, model: str, seed: int) -> Iterator[World]:
    """Both worlds."""
    vectors = Vectors(kept, precision, model)
    medquad, scifact, arxiv = (read(data / name) for name in ("medquad", "scifact", "arxiv_titles"))
    yield _medquad(medquad, scifact, vectors, seed)
    yield _arxiv(arxiv, medquad, vectors, seed)


class Usual:
    """How often the reference's queries score low, by topic."""

    def __init__(self, vectors: np.ndarray, passages: np.ndarray) -> None:
        scores = best(vectors, passages)[1][:, 0]
        self.low_score = float(np.quantile(scores, LOW))
        self.topics = topics_of(vectors)
        self.shares = shares_of(nearest(vectors, self.topics), scores < self.low_score, len(self.topics))

    def low(self, vectors: np.ndarray) -> np.ndarray:
        """Of queries like these, float64 (queries,)."""
        shares: np.ndarray = self.shares[nearest(vectors, self.topics)]
        return shares


class Serving:
    """Passages that are searched, and the words of theirs and of training queries."""

    def __init__(
        self, collection: Collection, ids: list[str], vectors: Vectors, passages: np.ndarray, usual: Usual
    ) -> None:
        self.collection, self.vectors, self.passages, self.usual = collection, vectors, passages, usual
        self.place = {one: row for row, one in enumerate(ids)}
        self.terms = vocabulary(collection.passages[one] for one in ids)

    def asked(self, texts: Sequence[str], vectors: np.ndarray, ids: Sequence[str] | None = None) -> Pool:
        """Ask them; `ids` of queries whose positives count."""
        rows, scores = best(vectors, self.passages)
        words = [words_of(text) for text in texts]
        unseen = [int((~are_known(hashed(some), self.terms)).sum()) for some in words]
        recalls = np.full(len(texts), np.nan)
        for number, query in enumerate(ids or ()):
            wanted = {self.place[one] for one in self.collection.positives[query] if one in self.place}
            if wanted:
                recalls[number] = len(wanted.intersection(rows[number].tolist())) / min(10, len(wanted))
        usual = self.usual.low(vectors)
        return Pool(scores[:, 0], usual, np.array(unseen), np.array([len(some) for some in words]), recalls)

    def damaged(self, texts: Sequence[str], ids: Sequence[str]) -> Iterator[tuple[str, Pool, float]]:
        """The first of these queries with letters wrong: in all of them, and in a tenth and a third of them."""
        for rate in RATES:
            draw = random.Random(rate)
            spoilt = [noisy(text, rate, draw) for text in texts[:DAMAGED]]
            pool = self.asked(spoilt, self.vectors.of("query", spoilt), ids[:DAMAGED])
            for share in (0.1, 0.3, 1.0):
                yield f"typos in {rate:.0%} of letters", pool, share


def _medquad(medquad: Collection, scifact: Collection, vectors: Vectors, seed: int) -> World:
    topic = topics(medquad.queries, medquad.positives)
    names = sorted(set(topic.values()))
    random.Random(seed).shuffle(names)
    first = round(HELD_BACK * len(names))
    new, reference = set(names[:first]), set(names[first : first + round(REFERENCE * len(names))])
    gone = {one for query in topic if topic[query] in new for one in medquad.positives[query]}
    kept = np.array([one not in gone for one in medquad.passages])
    ids = [one for one in medquad.passages if one not in gone]
    passages = vectors.of("passage", list(medquad.passages.values()))[kept]
    asked, texts = list(medquad.queries), list(medquad.queries.values())
    all_vectors = vectors.of("query", texts)
    is_new, is_reference = (np.array([topic[one] in some for one in asked]) for some in (new, reference))
    serving = Serving(medquad, ids, vectors, passages, Usual(all_vectors[is_reference], passages))
    everything = serving.asked(texts, all_vectors, asked)
    normal = ~is_new & ~is_reference
    claims = list(scifact.queries.values())
    other = serving.asked(claims, vectors.of("query", claims))
    shifts = [("new topics", everything.at(np.nonzero(is_new)[0]), share) for share in (0.0, 0.05, 0.1, 0.2, 0.3)]
    shifts += [("SciFact claims", other, share) for share in (0.1, 0.3)]
    some = np.random.default_rng(seed).permutation(np.nonzero(normal)[0])
    shifts += serving.damaged([texts[row] for row in some], [asked[row] for row in some])
    return _world("MedQuAD", everything, is_reference, normal, all_vectors, shifts)


def _arxiv(arxiv: Collection, medquad: Collection, vectors: Vectors, seed: int) -> World:
    asked = [one for one in arxiv.queries if month_of(one) in OLD_MONTHS + LATER_MONTHS]
    texts, months = [arxiv.queries[one] for one in asked], np.array([month_of(one) for one in asked])
    ids = [one for one in arxiv.passages if month_of(one) in OLD_MONTHS]
    passages = vectors.of("passage", [arxiv.passages[one] for one in ids])
    all_vectors = vectors.of("query", texts)
    old = np.isin(months, OLD_MONTHS)
    is_reference = old & (np.random.default_rng(seed).random(len(asked)) < REFERENCE)
    serving = Serving(arxiv, ids, vectors, passages, Usual(all_vectors[is_reference], passages))
    everything = serving.asked(texts, all_vectors, asked)
    shifts = [(f"titles of {month}", everything.at(np.nonzero(months == month)[0]), 1.0) for month in LATER_MONTHS]
    shifts += [("titles of 2606", shifts[-1][1], share) for share in (0.1, 0.3)]
    shifts.append(("titles of 2606, abstracts embedded", _refreshed(serving, ids), 1.0))
    questions = list(medquad.queries.values())
    other = serving.asked(questions, vectors.of("query", questions))
    shifts += [("MedQuAD questions", other, share) for share in (0.1, 0.3)]
    some = np.random.default_rng(seed).permutation(np.nonzero(old & ~is_reference)[0])
    shifts += serving.damaged([texts[row] for row in some], [asked[row] for row in some])
    return _world("arXiv titles", everything, is_reference, old & ~is_reference, all_vectors, shifts)


def _refreshed(serving: Serving, ids: list[str]) -> Pool:
    """Titles of the last month once its abstracts serve too: the encoder is the same, the corpus is not."""
    arxiv, vectors = serving.collection, serving.vectors
    last = [one for one in arxiv.passages if month_of(one) == LATER_MONTHS[-1]]
    more = vectors.of("passage", [arxiv.passages[one] for one in last])
    wider = Serving(arxiv, [*ids, *last], vectors, np.concatenate([serving.passages, more]), serving.usual)
    asked = [one for one in arxiv.queries if month_of(one) == LATER_MONTHS[-1]]
    texts = [arxiv.queries[one] for one in asked]
    return wider.asked(texts, vectors.of("query", texts), asked)


def _world(
    name: str, every: Pool, reference: np.ndarray, normal: np.ndarray, vectors: np.ndarray,
    shifts: list[tuple[str, Pool, float]],
) -> World:  # fmt: skip
    held_out = every.at(np.nonzero(reference)[0])
    receipt = Reference(
        digest="reference", path=Path(), rows=len(held_out), fingerprint="", snapshot="", embeddings="",
        low_score=float(np.quantile(held_out.scores, LOW)),
        unseen_terms=float(held_out.unseen.sum() / held_out.terms.sum()),
        judged=len(held_out.judged), recall=float(held_out.judged.mean()),
    )  # fmt: skip
    mixes = _mixes(vectors[normal])
    return World(name, receipt, every.at(np.nonzero(normal)[0]), mixes, shifts)


def _mixes(vectors: np.ndarray) -> list[np.ndarray]:
    """Rows by their nearest of some centres, found by k-means."""
    centres = vectors[np.random.default_rng(0).permutation(len(vectors))[:MIXES]]
    for _ in range(15):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        sums = np.stack([vectors[nearest == one].sum(axis=0) for one in np.unique(nearest)])
        centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    nearest = np.argmax(vectors @ centres.T, axis=1)
    return [np.nonzero(nearest == one)[0] for one in np.unique(nearest)]
