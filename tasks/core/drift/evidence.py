"""Evidence of drift that adds up over windows, with a bound on false alarms. Pure: no I/O, no clock.

Each window bets that the mean unfamiliarity of its queries has risen. If it has not, a bet pays at most 1 on average:
its factor is an e-value (Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2023). The
factor of a window is exp(rate · rise − cost). The cost is the logarithm of the average of exp(rate · rise) for normal
windows: exact for chance at the number of queries, and normal for the variation between windows and for the uncertainty
of the level. So a small window bets little, but what it bets counts.

The evidence is the Shiryaev-Roberts e-detector (Shin, Ramdas, and Rinaldo, "E-detectors", 2023, equation 8): after each
window, (1 + evidence) · factor. It adds the products of all possible first windows of drift. Their theorem 2.4 holds
for any dependence between windows: if no window is drifted, the average number of windows until the evidence passes a
line is at least the line. The evidence is the mean over several rates, one for each of RISES, and keeps the bound.

A factor is limited, so one extraordinary window is no drift: `confirm_windows` windows at the limit pass the line. A
smaller e-value is still an e-value.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.drift.findings import Measurement
from tasks.core.drift.unfamiliarity import HIGHEST, VARIANCE, log_mean_exp

RISES = (0.08, 0.16, 0.5)  # of the mean unfamiliarity that a window bets on
WOBBLE = 0.028  # least standard deviation between windows of the mean unfamiliarity
CAUTION = 1.5  # times the measured variation: the most unusual windows are not normal, so they are missing in it
MISMATCH = 0.06  # standard deviation between the mean unfamiliarity of held-out queries and that of traffic
PRIOR_LEVEL, PRIOR_WOBBLE = 2, 10  # number of windows that the reference and WOBBLE count as
DAMAGE = 12.0  # times the rise of the unseen-term share: the unfamiliarity that it explains
CERTAIN = 0.025  # standard error of the level; the part above it is subtracted from the rise of every window
CHANCE_TERMS = 0.002  # rise of the unseen-term share that is usual
HOURS_A_YEAR = 365 * 24


class Calibration(NamedTuple):
    """The mean unfamiliarity of normal windows."""

    level: float
    level_variance: float  # of `level`
    between: float  # variance between windows, without chance


def alarm_line(settings: DriftSettings) -> float:
    """Return the evidence that confirms drift: windows in a year, divided by the false alarms allowed in a year."""
    return max(2.0, HOURS_A_YEAR / max(1.0, settings.window_hours) / settings.false_alarms)


class Mean(NamedTuple):
    """The mean unfamiliarity of a normal window."""

    queries: int
    unfamiliarity: float


def calibrate(start: float, held_out: int, windows: Sequence[Mean], mismatch: float) -> Calibration:
    """Estimate the level of normal windows, and the variation between them.

    The starting value and each window count by their precision.

    Args:
        start: mean unfamiliarity before any window: 1 for the reference.
        held_out: number of queries behind `start`.
        windows: the normal windows so far.
        mismatch: standard deviation between the queries behind `start` and traffic.
    """
    between = WOBBLE**2
    for _ in range(2):  # the level depends on the variation, and the variation on the level
        variances = [between + VARIANCE / window.queries for window in windows]
        start_variance = mismatch**2 + between / PRIOR_LEVEL + VARIANCE / max(1, held_out)
        weights = [1 / start_variance, *(1 / variance for variance in variances)]
        values = [start, *(window.unfamiliarity for window in windows)]
        level = sum(weight * value for weight, value in zip(weights, values, strict=True)) / sum(weights)
        beyond = [(window.unfamiliarity - level) ** 2 - VARIANCE / window.queries for window in windows]
        # The less of a window's deviation is chance, the more it counts.
        shares = [WOBBLE**2 / (WOBBLE**2 + VARIANCE / window.queries) for window in windows]
        measured = CAUTION * sum(share * value for share, value in zip(shares, beyond, strict=True))
        between = max(WOBBLE**2, (PRIOR_WOBBLE * WOBBLE**2 + measured) / (PRIOR_WOBBLE + sum(shares)))
    return Calibration(level, 1 / sum(weights), between)


def unexplained_rise(measurement: Measurement, calibration: Calibration) -> float:
    """Return the rise of the mean unfamiliarity, without the rise that unseen terms or a wrong level explain.

    The error of the level is the same in every window, so it would add up: with few held-out queries, traffic that is
    merely different from them would become drift before windows calibrate the level.
    """
    terms = max(0.0, measurement.unseen - measurement.usual_unseen - CHANCE_TERMS)
    uncertain = max(0.0, math.sqrt(calibration.level_variance) - CERTAIN)
    return measurement.unfamiliarity - calibration.level - uncertain - DAMAGE * terms


def log_factors(rise: float, queries: int, calibration: Calibration, line: float, confirm: int) -> tuple[float, ...]:
    """Return the logarithm of a window's factor for each of RISES.

    Args:
        rise: of the mean unfamiliarity above the level.
        queries: in the window.
        calibration: of normal windows.
        line: evidence that confirms drift.
        confirm: minimum number of windows that confirm drift.
    """
    beyond = calibration.between + calibration.level_variance
    highest = math.log(line * len(RISES)) / confirm
    factors = []
    for alternative in RISES:
        # The best rate of a normal distribution, reduced for the skew of the unfamiliarity (Bernstein).
        rate = alternative / (beyond + VARIANCE / queries + HIGHEST * alternative / (3 * queries))
        cost = rate**2 * beyond / 2 + queries * log_mean_exp(rate / queries)
        factors.append(min(highest, rate * rise - cost))
    return tuple(factors)


def add_window(logs: tuple[float, ...], factors: tuple[float, ...], line: float) -> tuple[float, ...]:
    """Return the logarithms of the evidence after a window, one for each of RISES.

    They are limited, so evidence falls below the line soon after drift ends. This lowers the evidence, so the bound
    holds.

    Args:
        logs: before the window; empty at the start.
        factors: logarithms of the window's factors.
        line: evidence that confirms drift.
    """
    limit = math.log(line * len(RISES))
    before = [_log_one_plus(log) for log in logs] or [0.0] * len(factors)
    return tuple(min(limit, log + factor) for log, factor in zip(before, factors, strict=True))


def total(logs: tuple[float, ...]) -> float:
    """Return the evidence: the mean over RISES; 0 without windows."""
    return sum(map(math.exp, logs)) / len(logs) if logs else 0.0


def _log_one_plus(log: float) -> float:
    """Return log(1 + exp(log))."""
    return max(log, 0.0) + math.log1p(math.exp(-abs(log)))
