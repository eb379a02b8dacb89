"""Worlds of the drift benchmark: a reference, normal queries, and shifts, with the scores of every query."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from drift_vectors import (
    Collection,
    Vectors,
    add_typos,
    month_of,
    read_collection,
    search_best,
    to_german,
    topic_of_queries,
)

from tasks.core.base.receipts import Reference
from tasks.core.drift.findings import LOW
from tasks.core.drift.topics import nearest, shares_of, topics_of
from tasks.core.drift.unfamiliarity import TopicScores
from tasks.core.text.words import hashed, vocabulary, words_of
from tasks.core.text.words import known as are_known

HELD_BACK, REFERENCE = 0.3, 0.15  # shares of MedQuAD topics: new topics, and topics of the reference
OLD_MONTHS = ("2503", "2504", "2505", "2506")
LATER_MONTHS = ("2507", "2509", "2512", "2603", "2606")
MIXES = 20
HELD_BACK_CLUSTERS = 4  # of MIXES, in arXiv
DAMAGED = 3000  # queries that are damaged at each rate
RATES = (0.01, 0.02, 0.05, 0.1)  # of letters


@dataclass(frozen=True)
class Pool:
    """The values of queries that drift detection uses, as arrays of equal length."""

    scores: np.ndarray  # score of the best passage, float32
    usual_low: np.ndarray  # usual low-score share of its topic, float64
    unseen: np.ndarray  # number of unseen terms, int64
    terms: np.ndarray  # number of terms, int64
    recalls: np.ndarray  # Recall@10, float64; NaN: no qrels
    unfamiliarity: np.ndarray  # float64

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def judged(self) -> np.ndarray:
        """Recall@10 of queries with qrels."""
        recalls: np.ndarray = self.recalls[~np.isnan(self.recalls)]
        return recalls

    def at(self, rows: np.ndarray) -> Pool:
        """Select rows; a repeated row is repeated in the result."""
        return Pool(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def joined(pools: Sequence[Pool]) -> Pool:
        """Concatenate pools."""
        return Pool(*(np.concatenate([getattr(pool, field.name) for pool in pools]) for field in fields(Pool)))


@dataclass(frozen=True)
class World:
    """A collection with its reference, normal queries, and possible shifts."""

    name: str
    reference: Reference
    normal: Pool
    clusters: list[np.ndarray]  # rows of `normal`
    shifts: list[tuple[str, Pool, float]]  # name, queries, their share
    reference_scores: np.ndarray  # of the best passage, float32

    @property
    def usual_mix(self) -> np.ndarray:
        """Shares of the clusters, float64."""
        sizes = np.array([len(rows) for rows in self.clusters])
        mix: np.ndarray = sizes / sizes.sum()
        return mix

    def draw(self, mix: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
        """Draw rows of `normal`, with replacement, from clusters in the shares `mix`; int64 (count,)."""
        sizes = np.array([len(rows) for rows in self.clusters])
        starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
        chosen = np.repeat(np.arange(len(sizes)), rng.multinomial(count, mix / mix.sum()))
        rows: np.ndarray = np.concatenate(self.clusters)[
            starts[chosen] + (rng.random(count) * sizes[chosen]).astype(int)
        ]
        return rows

    def figures(self, pool: Pool) -> tuple[float, float]:
        """Return the low-score share and the unseen-term share of a pool."""
        low = float((pool.scores < self.reference.low_score).mean() - pool.usual_low.mean()) + LOW
        return low, float(pool.unseen.sum() / pool.terms.sum())

    def describe(self) -> str:
        """Format reference and normal queries in a line."""
        reference = self.reference
        return (
            f"Reference: {reference.rows:,} queries, low score {reference.low_score:.3f}, "
            f"unseen terms {reference.unseen_terms:.2%}, Recall@10 {reference.recall:.3f}. "
            f"Normal queries: {len(self.normal):,}, low-score share {self.figures(self.normal)[0]:.1%}."
        )


def worlds(data: Path, cache: Path, precision: str, model: str, seed: int) -> Iterator[World]:
    """Yield the worlds of MedQuAD and arXiv."""
    vectors = Vectors(cache, precision, model)
    medquad, scifact, arxiv = (read_collection(data / name) for name in ("medquad", "scifact", "arxiv_titles"))
    yield _medquad(medquad, scifact, vectors, seed)
    yield _arxiv(arxiv, medquad, vectors, seed)
    yield _arxiv_topics(arxiv, vectors, seed)


class LowShares:
    """Low-score share of the reference queries by topic."""

    def __init__(self, vectors: np.ndarray, passages: np.ndarray) -> None:
        scores = search_best(vectors, passages)[1][:, 0]
        self.low_score = float(np.quantile(scores, LOW))
        self.topics = topics_of(vectors)
        members = nearest(vectors, self.topics)
        self.shares = shares_of(members, scores < self.low_score, len(self.topics))
        self.scores = TopicScores.of(members, scores, len(self.topics))

    def low(self, vectors: np.ndarray) -> np.ndarray:
        """Return the low-score share of the topic of each query, float64 (queries,)."""
        shares: np.ndarray = self.shares[nearest(vectors, self.topics)]
        return shares


class Serving:
    """Searchable passages with their vocabulary."""

    def __init__(
        self, collection: Collection, ids: list[str], vectors: Vectors, passages: np.ndarray, usual: LowShares
    ) -> None:
        self.collection, self.vectors, self.passages, self.usual = collection, vectors, passages, usual
        self.row_of = {passage: row for row, passage in enumerate(ids)}
        self.terms = vocabulary(collection.passages[passage] for passage in ids)

    def search(self, texts: Sequence[str], vectors: np.ndarray, ids: Sequence[str] | None = None) -> Pool:
        """Search queries; with `ids`, compute Recall@10 from their positives."""
        rows, scores = search_best(vectors, self.passages)
        words = [words_of(text) for text in texts]
        unseen = [int((~are_known(hashed(terms), self.terms)).sum()) for terms in words]
        recalls = np.full(len(texts), np.nan)
        for number, query in enumerate(ids or ()):
            wanted = {self.row_of[passage] for passage in self.collection.positives[query] if passage in self.row_of}
            if wanted:
                recalls[number] = len(wanted.intersection(rows[number].tolist())) / min(10, len(wanted))
        usual = self.usual.low(vectors)
        unfamiliarity = self.usual.scores.unfamiliarity(nearest(vectors, self.usual.topics), scores[:, 0])
        counts = np.array([len(terms) for terms in words])
        return Pool(scores[:, 0], usual, np.array(unseen), counts, recalls, unfamiliarity)

    def damaged(self, texts: Sequence[str], ids: Sequence[str]) -> Iterator[tuple[str, Pool, float]]:
        """Yield shifts with typos in a tenth, in 30 %, and in all of the first queries."""
        for rate in RATES:
            draw = random.Random(rate)
            noisy_texts = [add_typos(text, rate, draw) for text in texts[:DAMAGED]]
            pool = self.search(noisy_texts, self.vectors.encode("query", noisy_texts), ids[:DAMAGED])
            for share in (0.1, 0.3, 1.0):
                yield f"typos in {rate:.0%} of letters", pool, share


def _medquad(medquad: Collection, scifact: Collection, vectors: Vectors, seed: int) -> World:
    topic = topic_of_queries(medquad.queries, medquad.positives)
    names = sorted(set(topic.values()))
    random.Random(seed).shuffle(names)
    first = round(HELD_BACK * len(names))
    new, reference = set(names[:first]), set(names[first : first + round(REFERENCE * len(names))])
    gone = {passage for query in topic if topic[query] in new for passage in medquad.positives[query]}
    retained = np.array([passage not in gone for passage in medquad.passages])
    ids = [passage for passage in medquad.passages if passage not in gone]
    passages = vectors.encode("passage", list(medquad.passages.values()))[retained]
    query_ids, texts = list(medquad.queries), list(medquad.queries.values())
    all_vectors = vectors.encode("query", texts)
    is_new, is_reference = (np.array([topic[query] in names for query in query_ids]) for names in (new, reference))
    serving = Serving(medquad, ids, vectors, passages, LowShares(all_vectors[is_reference], passages))
    everything = serving.search(texts, all_vectors, query_ids)
    normal = ~is_new & ~is_reference
    claims = list(scifact.queries.values())
    other = serving.search(claims, vectors.encode("query", claims))
    shifts = [("new topics", everything.at(np.nonzero(is_new)[0]), share) for share in (0.0, 0.05, 0.1, 0.2, 0.3)]
    shifts += [("SciFact claims", other, share) for share in (0.1, 0.3)]
    order = np.random.default_rng(seed).permutation(np.nonzero(normal)[0])
    german = to_german([texts[row] for row in order[:DAMAGED]])
    translated = serving.search(german, vectors.encode("query", german))
    shifts += [("questions in German", translated, share) for share in (0.1, 0.3, 1.0)]
    shifts += serving.damaged([texts[row] for row in order], [query_ids[row] for row in order])
    return _world("MedQuAD", everything, is_reference, normal, all_vectors, shifts)


def _arxiv(arxiv: Collection, medquad: Collection, vectors: Vectors, seed: int) -> World:
    query_ids = [query for query in arxiv.queries if month_of(query) in OLD_MONTHS + LATER_MONTHS]
    texts, months = [arxiv.queries[query] for query in query_ids], np.array([month_of(query) for query in query_ids])
    ids = [passage for passage in arxiv.passages if month_of(passage) in OLD_MONTHS]
    passages = vectors.encode("passage", [arxiv.passages[passage] for passage in ids])
    all_vectors = vectors.encode("query", texts)
    old = np.isin(months, OLD_MONTHS)
    is_reference = old & (np.random.default_rng(seed).random(len(query_ids)) < REFERENCE)
    serving = Serving(arxiv, ids, vectors, passages, LowShares(all_vectors[is_reference], passages))
    everything = serving.search(texts, all_vectors, query_ids)
    shifts = [(f"titles of {month}", everything.at(np.nonzero(months == month)[0]), 1.0) for month in LATER_MONTHS]
    shifts += [("titles of 2606", shifts[-1][1], share) for share in (0.1, 0.3)]
    shifts.append(("titles of 2606, abstracts embedded", _refreshed(serving, ids), 1.0))
    questions = list(medquad.queries.values())
    other = serving.search(questions, vectors.encode("query", questions))
    shifts += [("MedQuAD questions", other, share) for share in (0.05, 0.1, 0.3)]
    order = np.random.default_rng(seed).permutation(np.nonzero(old & ~is_reference)[0])
    shifts += serving.damaged([texts[row] for row in order], [query_ids[row] for row in order])
    return _world("arXiv titles", everything, is_reference, old & ~is_reference, all_vectors, shifts)


def _arxiv_topics(arxiv: Collection, vectors: Vectors, seed: int) -> World:
    """Hold back some clusters of titles with their abstracts: they arrive later as new topics."""
    ids = [passage for passage in arxiv.passages if month_of(passage) in OLD_MONTHS]
    passages = vectors.encode("passage", [arxiv.passages[passage] for passage in ids])
    months = OLD_MONTHS + LATER_MONTHS  # the list whose vectors are cached
    known = [query for query in arxiv.queries if month_of(query) in months]
    all_vectors = vectors.encode("query", [arxiv.queries[query] for query in known])
    old = np.array([month_of(query) in OLD_MONTHS for query in known])
    query_ids, query_vectors = [query for query, is_old in zip(known, old, strict=True) if is_old], all_vectors[old]
    clusters = _cluster(query_vectors)
    is_new = np.zeros(len(query_ids), bool)
    for number in np.random.default_rng(seed).permutation(len(clusters))[:HELD_BACK_CLUSTERS]:
        is_new[clusters[number]] = True
    gone = {passage for row in np.flatnonzero(is_new) for passage in arxiv.positives[query_ids[row]]}
    retained = np.array([passage not in gone for passage in ids])
    is_reference = ~is_new & (np.random.default_rng(seed).random(len(query_ids)) < REFERENCE)
    usual = LowShares(query_vectors[is_reference], passages[retained])
    kept = [passage for passage in ids if passage not in gone]
    serving = Serving(arxiv, kept, vectors, passages[retained], usual)
    everything = serving.search([arxiv.queries[query] for query in query_ids], query_vectors, query_ids)
    new = everything.at(np.flatnonzero(is_new))
    shifts = [("new topics", new, share) for share in (0.0, 0.05, 0.1, 0.2)]
    return _world(
        "arXiv titles, topics held back", everything, is_reference, ~is_new & ~is_reference, query_vectors, shifts
    )


def _refreshed(serving: Serving, ids: list[str]) -> Pool:
    """Search titles of the last month after a refresh with its abstracts, with the same encoder."""
    arxiv, vectors = serving.collection, serving.vectors
    last = [passage for passage in arxiv.passages if month_of(passage) == LATER_MONTHS[-1]]
    more = vectors.encode("passage", [arxiv.passages[passage] for passage in last])
    wider = Serving(arxiv, [*ids, *last], vectors, np.concatenate([serving.passages, more]), serving.usual)
    query_ids = [query for query in arxiv.queries if month_of(query) == LATER_MONTHS[-1]]
    texts = [arxiv.queries[query] for query in query_ids]
    return wider.search(texts, vectors.encode("query", texts), query_ids)


def _world(
    name: str, pool: Pool, reference: np.ndarray, normal: np.ndarray, vectors: np.ndarray,
    shifts: list[tuple[str, Pool, float]],
) -> World:  # fmt: skip
    held_out = pool.at(np.nonzero(reference)[0])
    receipt = Reference(
        digest="reference", path=Path(), rows=len(held_out), fingerprint="", snapshot="", embeddings="",
        low_score=float(np.quantile(held_out.scores, LOW)),
        unseen_terms=float(held_out.unseen.sum() / held_out.terms.sum()),
        judged=len(held_out.judged), recall=float(held_out.judged.mean()),
    )  # fmt: skip
    mixes = _cluster(vectors[normal])
    return World(name, receipt, pool.at(np.nonzero(normal)[0]), mixes, shifts, held_out.scores)


def _cluster(vectors: np.ndarray) -> list[np.ndarray]:
    """Cluster rows by k-means."""
    centres = vectors[np.random.default_rng(0).permutation(len(vectors))[:MIXES]]
    for _ in range(15):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        sums = np.stack([vectors[nearest == number].sum(axis=0) for number in np.unique(nearest)])
        centres = sums / np.linalg.norm(sums, axis=1, keepdims=True)
    nearest = np.argmax(vectors @ centres.T, axis=1)
    return [np.nonzero(nearest == number)[0] for number in np.unique(nearest)]
