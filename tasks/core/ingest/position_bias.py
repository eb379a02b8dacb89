"""Corrects clicks for position: how often users look at each position, and how likely a passage is relevant.

The position-based model (Richardson et al., "Predicting Clicks: Estimating the Click-Through Rate for New Ads", 2007):
users click a passage if they look at its position and find it attractive, P(click) = θ(position) · γ(query, passage).
θ is the propensity; dividing by it removes the bias of position from a mean over clicks (Joachims et al., "Unbiased
Learning-to-Rank with Biased Feedback", 2017).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STEPS = 500
CONVERGED = 1e-6
PRIOR = 20.0  # number of looks, or of pairs, at each position that a prior is worth
HIGHEST = 0.99  # of the probability of a click on a relevant passage
LEAST_INFORMATIVE = 100  # clicks on pairs shown at several positions; with fewer, the estimate is mostly the prior


@dataclass(frozen=True)
class Impressions:
    """Counts of a click log, one row for each pair of query and passage and each of its positions.

    pair: int64 (n,), number of the pair, from 0. position: int64 (n,), from 1.
    shown, clicks: int64 (n,), result pages with the pair at the position, and those with a click on it.
    """

    pair: np.ndarray
    position: np.ndarray
    shown: np.ndarray
    clicks: np.ndarray

    def per_pair(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of `values` (n,) for each pair, float64 (pairs,)."""
        sums = np.bincount(self.pair, values, minlength=int(self.pair.max(initial=-1)) + 1)
        return sums.astype(np.float64)  # without a row, they are whole numbers

    def informative(self) -> Impressions:
        """Return the rows of clicked pairs that were shown at several positions: only these distinguish positions."""
        several = self.per_pair(np.ones(len(self.pair)))[self.pair] > 1
        keep = several & (self.per_pair(self.clicks)[self.pair] > 0)
        return Impressions(self.pair[keep], self.position[keep], self.shown[keep], self.clicks[keep])


def estimate_propensity(impressions: Impressions) -> np.ndarray:
    """Estimate the probability that users look at each position, relative to position 1.

    Expectation-maximization of the position-based model (Wang et al., "Position Bias Estimation for Unbiased Learning
    to Rank in Personal Search", 2018), with Poisson counts, so that both steps have a closed form:
    γ = clicks / Σ θ·shown for each pair, and θ = clicks / Σ γ·shown for each position. A pair that was shown at one
    position has no influence: its γ explains its clicks for any θ. So only changes of position between result pages
    count, as in intervention harvesting (Agarwal et al., "Estimating Position Bias without Intrusive Interventions",
    arXiv 1812.05161). They come from releases and settings that rank differently.

    The prior of position k is 1/k with the strength of 20 looks. It decides where the log has no such change.

    Returns:
        float64 (last position,), in (0, 1]; the first is 1.
    """
    last = int(impressions.position.max(initial=1))
    prior = 1 / np.arange(1, last + 1)
    data, theta = impressions.informative(), prior.copy()
    place = data.position - 1
    clicks_at = np.bincount(place, data.clicks, minlength=last)
    clicks_of = data.per_pair(data.clicks)
    for _ in range(STEPS):
        looks = data.per_pair(theta[place] * data.shown)
        attraction = np.divide(clicks_of, looks, out=np.zeros_like(looks), where=looks > 0)
        expected = np.bincount(place, attraction[data.pair] * data.shown, minlength=last)
        updated = (clicks_at + PRIOR * prior) / (expected + PRIOR)
        updated /= updated[0]
        change, theta = np.abs(updated - theta).max(), updated
        if change < CONVERGED:
            break
    return np.clip(theta, 1e-6, 1.0)


def extend_propensity(given: tuple[float, ...], last: int) -> np.ndarray:
    """Return the propensities of positions 1 to `last`, float64; the last given one holds for all later positions."""
    return np.array([given[min(place, len(given) - 1)] for place in range(last)])


def relevance(impressions: Impressions, propensity: np.ndarray, max_correction: float) -> np.ndarray:
    """Return the probability that the passage of each pair is relevant to its query, float64 (pairs,) in [0, 1].

    Users who look at a passage click it with probability ε₊ if it is relevant, and ε₋ if not (Agarwal et al.,
    "Addressing Trust Bias for Unbiased Learning-to-Rank", 2019, equation 4, with the same ε at all positions). The
    result is the posterior of relevance given all result pages of the pair, so few looks give an unsure pair.

    Expectation-maximization fits ε₊, ε₋, and the share of relevant pairs among those of the same mean position: the
    regression-based EM of Wang et al. (2018) with the position as the only feature of a pair. Without it, a single
    click far down counts too much, since a ranker puts few relevant passages there. The propensities come from changes
    of position alone, so they keep this effect apart from the attention of users.

    Args:
        impressions: counts.
        propensity: θ of each position, float64 (last position,).
        max_correction: θ is at least 1 / max_correction, which bounds the variance (clipped propensities).
    """
    theta = np.maximum(propensity, 1 / max_correction)[impressions.position - 1]
    missed = impressions.shown - impressions.clicks
    shown, clicks = impressions.per_pair(impressions.shown), impressions.per_pair(impressions.clicks)
    mean = min(float(clicks.sum() / max((theta * impressions.shown).sum(), 1e-12)), HIGHEST / 2)
    if mean == 0:
        return np.zeros_like(clicks)
    rank = np.rint(impressions.per_pair(impressions.position * impressions.shown) / shown).astype(np.int64)

    def log_likelihood(rate: float) -> np.ndarray:
        return np.asarray(clicks * np.log(rate) + impressions.per_pair(missed * np.log1p(-theta * rate)))

    def refit(rate: float, weight: np.ndarray) -> float:
        """Return clicks per look; a result page without a click was looked at with probability θ(1 − ε)/(1 − θε)."""
        looks = clicks + impressions.per_pair(missed * theta * (1 - rate) / (1 - theta * rate))
        return float((weight * clicks).sum() / max((weight * looks).sum(), 1e-12))

    high, low, share = min(3 * mean, HIGHEST), mean / 3, np.full(len(clicks), 0.2)
    posterior = np.zeros_like(clicks)
    for _ in range(STEPS):
        odds = np.log(share / (1 - share)) + log_likelihood(high) - log_likelihood(low)
        updated = 1 / (1 + np.exp(-np.clip(odds, -50, 50)))
        change, posterior = np.abs(updated - posterior).max(), updated
        if change < CONVERGED:
            break
        relevant, pairs = np.bincount(rank, posterior), np.bincount(rank)
        share_at = (relevant + PRIOR * posterior.mean()) / (pairs + PRIOR)
        share = np.clip(share_at, 1e-3, 1 - 1e-3)[rank]
        high = min(max(refit(high, posterior), mean), HIGHEST)
        low = min(max(refit(low, 1 - posterior), 1e-3 * mean), mean)
    return posterior
