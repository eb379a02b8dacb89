"""The position-based model on logs with known propensities."""

from __future__ import annotations

import numpy as np
import pytest

from tasks.core.ingest.position_bias import Impressions, estimate_propensity, extend_propensity, relevance

APPEAL, NOISE = 0.9, 0.05


def simulated(
    theta: np.ndarray, queries: int, pages: int, rankings: int, seed: int = 0
) -> tuple[Impressions, np.ndarray]:
    """Return the counts of simulated users, and whether each pair is relevant: one passage of each query is."""
    rng = np.random.default_rng(seed)
    size = len(theta)
    cells: dict[tuple[int, int], list[int]] = {}
    for query in range(queries):
        orders = [rng.permutation(size) for _ in range(rankings)]
        for page in range(pages):
            order = orders[page % rankings]
            likes = np.where(order == 0, APPEAL, NOISE)  # passage 0 is relevant
            clicks = rng.random(size) < theta * likes
            for place, passage in enumerate(order.tolist()):
                counts = cells.setdefault((query * size + passage, place + 1), [0, 0])
                counts[0] += 1
                counts[1] += int(clicks[place])
    pair, position = np.array(list(cells)).T
    shown, clicks = np.array(list(cells.values())).T
    return Impressions(pair, position, shown, clicks), np.arange(queries * size) % size == 0


@pytest.mark.parametrize("eta", [0.5, 1.0, 1.5])
def test_propensities_are_recovered(eta: float) -> None:
    theta = 1 / np.arange(1, 9) ** eta
    impressions, _ = simulated(theta, queries=400, pages=20, rankings=4)
    assert estimate_propensity(impressions) == pytest.approx(theta, abs=0.1)


def test_relevance_does_not_disturb_propensities() -> None:
    """The good passages are always near the top, so that clicks there are frequent for two reasons."""
    theta, rng = 1 / np.arange(1, 7), np.random.default_rng(1)
    rows = []
    for pair in range(2400):
        first = pair % 5 + 1
        attraction = 1 - first / 7
        rows += [
            (pair, position, 20, rng.binomial(20, theta[position - 1] * attraction)) for position in (first, first + 1)
        ]
    pair, position, shown, clicks = np.array(rows).T
    estimate = estimate_propensity(Impressions(pair, position, shown, clicks))
    assert estimate == pytest.approx(theta, abs=0.05)
    naive = np.array([clicks[position == k].sum() / shown[position == k].sum() for k in range(1, 7)])
    assert np.abs(naive / naive[0] - theta).max() > 0.05


def test_without_a_change_of_position_the_prior_decides() -> None:
    impressions, _ = simulated(np.ones(5), queries=50, pages=10, rankings=1)
    assert len(impressions.informative().pair) == 0
    assert estimate_propensity(impressions) == pytest.approx(1 / np.arange(1, 6))


def test_relevant_pairs_are_surer_than_others_and_more_looks_make_them_surer() -> None:
    theta = 1 / np.arange(1, 9)
    means = []
    for pages in (5, 40):
        impressions, relevant = simulated(theta, queries=200, pages=pages, rankings=3)
        sure = relevance(impressions, theta, max_correction=10)
        means.append(sure[relevant].mean() - sure[~relevant].mean())
    assert 0.3 < means[0] < means[1]
    assert means[1] > 0.9


def test_given_propensities_are_extended_to_later_positions() -> None:
    assert extend_propensity((1.0, 0.5), 4).tolist() == [1.0, 0.5, 0.5, 0.5]


def test_a_log_without_clicks_has_no_relevant_pair() -> None:
    pair = np.array([0, 1])
    silent = Impressions(pair, pair + 1, pair + 5, np.zeros(2, np.int64))
    assert relevance(silent, estimate_propensity(silent), 10).tolist() == [0, 0]
