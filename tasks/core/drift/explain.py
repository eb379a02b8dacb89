"""Explain drift: which terms and segments moved, and two measures of how different the new queries are.

No decision depends on the classifier and the divergence. They measure whether the mix of queries changed, not whether
the encoder can still answer them, and they react to normal variation between nights.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np

from tasks.core.drift.findings import LOW, Explanation, MovedSlice, MovedTerm
from tasks.core.drift.statistics import ReferenceData
from tasks.core.drift.topics import nearest
from tasks.core.text.words import STOP_WORDS, words_of

SHOWN = 10  # terms and segments
LENGTHS = {"1 or 2 words": 2, "3 to 5 words": 5, "6 to 10 words": 10, "11 words and more": 1 << 30}
SAMPLED = 2000  # queries of each side that the classifier is trained on
PENALTY = 1.0
SPACES = re.compile(r"\s+")


def explain(reference: ReferenceData, texts: Sequence[str], vectors: np.ndarray, low: np.ndarray) -> Explanation:
    """Compare new queries with those of the reference.

    Args:
        known: the reference.
        texts: the new queries.
        vectors: float32 (queries, dimension), of `texts`.
        low: bool (queries,), whether the query scores low.
    """
    reference_texts, reference_vectors = reference.held_out
    terms = moved_terms(texts, reference_texts)
    informative = [term for term in terms if term.term not in STOP_WORDS]
    return Explanation(
        classifier_auc=classifier_auc(vectors, reference_vectors),
        term_divergence=sum(term.divergence for term in terms),
        terms=tuple(informative[:SHOWN]),
        slices=tuple(_moved_segments(reference, texts, vectors, low)[:SHOWN]),
    )


def moved_terms(now: Sequence[str], before: Sequence[str]) -> list[MovedTerm]:
    """Return all terms by their part of the Jensen-Shannon divergence of the term distributions, largest first."""
    now_counts, before_counts = (Counter(chain.from_iterable(map(words_of, texts))) for texts in (now, before))
    terms = sorted(now_counts.keys() | before_counts.keys())
    p, q = (
        np.array([counts[term] for term in terms]) / max(1, counts.total()) for counts in (now_counts, before_counts)
    )
    mean = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (np.where(p > 0, p * np.log2(p / mean), 0) + np.where(q > 0, q * np.log2(q / mean), 0)) / 2
    order = np.argsort(-parts, kind="stable")
    return [
        MovedTerm(term=terms[index], share=float(p[index]), reference=float(q[index]), divergence=float(parts[index]))
        for index in order
    ]


def classifier_auc(now: np.ndarray, before: np.ndarray) -> float:
    """Return how often a logistic regression ranks a new query above an old one, in [0, 1].

    now, before: vectors, float32 (queries, dimension).

    Each half is scored by the regression trained on the other half. 0.5: not distinguishable.
    """
    from scipy.stats import rankdata  # imports much; nights that change nothing do not need it

    draw = np.random.default_rng(0)
    sides = [side[draw.permutation(len(side))[:SAMPLED]] for side in (now, before)]
    if min(map(len, sides)) < 4:
        return 0.5
    areas = []
    for fold in range(2):
        training, scored = ([side[half::2] for side in sides] for half in (fold, 1 - fold))
        weights = _logistic(np.concatenate(training), np.repeat([1.0, -1.0], [len(side) for side in training]))
        ranks = rankdata(np.concatenate(scored) @ weights[:-1])
        n, m = map(len, scored)
        areas.append((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(areas))


def _logistic(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Fit a ridge logistic regression to labels of 1 and -1; return the weights, and the intercept last."""
    from scipy.optimize import minimize  # slow to import: nights without work need only `distinctive_words`
    from scipy.special import expit, log_expit

    x = np.column_stack([vectors, np.ones(len(vectors))]).astype(np.float64)

    def loss_and_gradient(weights: np.ndarray) -> tuple[float, np.ndarray]:
        margins = labels * (x @ weights)
        loss = PENALTY / 2 * weights @ weights - log_expit(margins).sum()
        return loss, PENALTY * weights - x.T @ (labels * expit(-margins))

    weights: np.ndarray = minimize(loss_and_gradient, np.zeros(x.shape[1]), jac=True, method="L-BFGS-B").x
    return weights


def _moved_segments(
    reference: ReferenceData, now: Sequence[str], vectors: np.ndarray, low: np.ndarray
) -> list[MovedSlice]:
    """Return the segments whose share, or share of low scores, differs most from the reference, largest first."""
    reference_texts, reference_vectors = reference.held_out
    segments = [
        *_by_length(now, reference_texts),
        *_by_topic(reference_texts, reference.topics, vectors, reference_vectors),
    ]
    moved = [
        MovedSlice(
            name=name,
            share=float(in_new.mean()),
            reference=float(in_reference.mean()),
            low_score_share=float(low[in_new].mean()),
        )
        for name, in_new, in_reference in segments
        if in_new.any()
    ]
    return sorted(
        moved,
        key=lambda segment: (
            -abs(segment.share - segment.reference) - segment.share * abs(segment.low_score_share - LOW)
        ),
    )


Masks = tuple[str, np.ndarray, np.ndarray]  # name, bool (new queries,), bool (reference queries,)


def _by_length(now: Sequence[str], before: Sequence[str]) -> list[Masks]:
    new_bands, reference_bands = (
        np.searchsorted(list(LENGTHS.values()), [len(SPACES.split(text.strip())) for text in texts])
        for texts in (now, before)
    )
    return [(name, new_bands == band, reference_bands == band) for band, name in enumerate(LENGTHS)]


def _by_topic(
    reference_texts: Sequence[str], centers: np.ndarray, vectors: np.ndarray, reference_vectors: np.ndarray
) -> list[Masks]:
    """Assign queries to the topics of the reference; name each topic by its most distinctive words."""
    new_topics, reference_topics = (nearest(side, centers) for side in (vectors, reference_vectors))
    word_counts = Counter(chain.from_iterable(set(words_of(text)) for text in reference_texts))
    return [
        (
            f"like: {distinctive_words(reference_texts, reference_topics == topic, word_counts)}",
            new_topics == topic,
            reference_topics == topic,
        )
        for topic in range(len(centers))
    ]


def distinctive_words(texts: Sequence[str], chosen: np.ndarray, word_counts: Counter[str]) -> str:
    """Return the three words that occur in most of the chosen texts and in few others."""
    chosen_counts = Counter(
        chain.from_iterable(set(words_of(text)) for text, inside in zip(texts, chosen, strict=True) if inside)
    )
    best = sorted(
        chosen_counts.keys() - STOP_WORDS or chosen_counts,
        key=lambda word: (-(chosen_counts[word] ** 2) / word_counts[word], word),
    )
    return ", ".join(best[:3])
