"""What moved, for a person to read: terms, slices, and two figures that say how different the new queries are.

A classifier and a divergence fire on ordinary wobble from night to night: they ask whether the mix is another one, not
whether the encoder can still answer. So nothing is decided on them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from itertools import chain

import numpy as np
from scipy.special import expit
from scipy.stats import rankdata

from tasks.core.drift.findings import LOW, Explanation, MovedSlice, MovedTerm
from tasks.core.drift.statistics import ReferenceData
from tasks.core.drift.topics import nearest
from tasks.core.text.words import STOP_WORDS, words_of

SHOWN = 10  # terms and slices
LENGTHS = {"1 or 2 words": 2, "3 to 5 words": 5, "6 to 10 words": 10, "11 words and more": 1 << 30}
SAMPLED = 2000  # queries of each side that the classifier looks at
PENALTY = 1.0
SPACES = re.compile(r"\s+")


def explain(known: ReferenceData, texts: Sequence[str], vectors: np.ndarray, low: np.ndarray) -> Explanation:
    """Hold new queries against the reference's.

    vectors: float32 (queries, dimension) of `texts`. low: bool (queries,), those that score low.
    """
    before, their_vectors = known.held_out
    terms = moved_terms(texts, before)
    telling = [term for term in terms if term.term not in STOP_WORDS]
    return Explanation(
        classifier_auc=classifier_auc(vectors, their_vectors),
        term_divergence=sum(one.divergence for one in terms),
        terms=tuple(telling[:SHOWN]),
        slices=tuple(_moved_slices(known, texts, vectors, low)[:SHOWN]),
    )


def moved_terms(now: Sequence[str], before: Sequence[str]) -> list[MovedTerm]:
    """All terms by their part of the Jensen-Shannon divergence of the two term distributions, the largest first."""
    ours, theirs = (Counter(chain.from_iterable(map(words_of, texts))) for texts in (now, before))
    terms = sorted(ours.keys() | theirs.keys())
    p, q = (np.array([counts[term] for term in terms]) / max(1, counts.total()) for counts in (ours, theirs))
    middle = (p + q) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = (np.where(p > 0, p * np.log2(p / middle), 0) + np.where(q > 0, q * np.log2(q / middle), 0)) / 2
    order = np.argsort(-parts, kind="stable")
    return [
        MovedTerm(term=terms[one], share=float(p[one]), reference=float(q[one]), divergence=float(parts[one]))
        for one in order
    ]


def classifier_auc(now: np.ndarray, before: np.ndarray) -> float:
    """How often a logistic regression on vectors (n, dimension), (m, dimension) ranks a new query over an old one.

    Each half is judged by the regression of the other half. 0.5: they cannot be told apart.
    """
    draw = np.random.default_rng(0)
    sides = [side[draw.permutation(len(side))[:SAMPLED]] for side in (now, before)]
    if min(map(len, sides)) < 4:
        return 0.5
    areas = []
    for fold in range(2):
        learned, judged = ([side[half::2] for side in sides] for half in (fold, 1 - fold))
        weights = _logistic(np.concatenate(learned), np.repeat([1.0, 0.0], [len(one) for one in learned]))
        ranks = rankdata(np.concatenate(judged) @ weights[:-1])
        n, m = map(len, judged)
        areas.append((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))
    return float(np.mean(areas))


def _logistic(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Weights and, last, the intercept of a ridge logistic regression, by Newton's method."""
    x = np.column_stack([vectors, np.ones(len(vectors))]).astype(np.float64)
    weights = np.zeros(x.shape[1])
    for _ in range(6):
        chance = expit(x @ weights)
        slope = x.T @ (chance - labels) + PENALTY * weights
        curve = (x * (chance * (1 - chance))[:, None]).T @ x + PENALTY * np.eye(x.shape[1])
        weights -= np.linalg.solve(curve, slope)
    return weights


def _moved_slices(known: ReferenceData, now: Sequence[str], vectors: np.ndarray, low: np.ndarray) -> list[MovedSlice]:
    """Slices whose share, or whose part of the low scores, differs most from the reference, the largest first."""
    before, their_vectors = known.held_out
    slices = [*_by_length(now, before), *_by_topic(before, known.topics, vectors, their_vectors)]
    found = [
        MovedSlice(
            name=name, share=float(ours.mean()), reference=float(theirs.mean()), low_score_share=float(low[ours].mean())
        )
        for name, ours, theirs in slices
        if ours.any()
    ]
    return sorted(found, key=lambda one: -abs(one.share - one.reference) - one.share * abs(one.low_score_share - LOW))


Masks = tuple[str, np.ndarray, np.ndarray]  # name, of the new queries, of the reference's


def _by_length(now: Sequence[str], before: Sequence[str]) -> list[Masks]:
    ours, theirs = (
        np.searchsorted(list(LENGTHS.values()), [len(SPACES.split(text.strip())) for text in texts])
        for texts in (now, before)
    )
    return [(name, ours == band, theirs == band) for band, name in enumerate(LENGTHS)]


def _by_topic(
    before: Sequence[str], centres: np.ndarray, vectors: np.ndarray, their_vectors: np.ndarray
) -> list[Masks]:
    """Topics are clusters of the reference's queries, each named by the words that set it apart from the others."""
    ours, theirs = (nearest(side, centres) for side in (vectors, their_vectors))
    everywhere = Counter(chain.from_iterable(set(words_of(text)) for text in before))
    return [
        (f"like: {_telling(before, theirs == topic, everywhere)}", ours == topic, theirs == topic)
        for topic in range(len(centres))
    ]


def _telling(texts: Sequence[str], chosen: np.ndarray, everywhere: Counter[str]) -> str:
    """The three words that stand in most of the chosen texts and in few others."""
    inside = Counter(chain.from_iterable(set(words_of(text)) for text, one in zip(texts, chosen, strict=True) if one))
    best = sorted(
        inside.keys() - STOP_WORDS or inside, key=lambda word: (-(inside[word] ** 2) / everywhere[word], word)
    )
    return ", ".join(best[:3])
