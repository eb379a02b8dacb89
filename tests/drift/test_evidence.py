"""Evidence of drift: its bound on false alarms, and what it depends on."""

from __future__ import annotations

import math

import numpy as np
import pytest

from tasks.core.base.settings import DriftSettings
from tasks.core.drift.evidence import (
    RISES,
    Calibration,
    Mean,
    add_window,
    alarm_line,
    calibrate,
    log_factors,
    total,
    unexplained_rise,
)
from tasks.core.drift.findings import Measurement
from tasks.core.drift.unfamiliarity import VARIANCE, TopicScores, of_quantiles

LINE = alarm_line(DriftSettings())
WOBBLE = 0.03


def test_the_line_is_the_number_of_windows_for_each_false_alarm() -> None:
    assert LINE == 365 * 24 / 20 / 0.05
    assert alarm_line(DriftSettings(false_alarms=0.5)) == LINE / 10


@pytest.mark.parametrize("queries", [50, 200, 1000])
def test_a_bet_on_normal_windows_does_not_pay(queries: int) -> None:
    """The mean factor of normal windows is at most 1, within four standard errors."""
    draw = np.random.default_rng(queries)
    rises = np.array([of_quantiles(draw.random(queries)).mean() for _ in range(4000)]) - 1
    rises += WOBBLE * draw.standard_normal(len(rises))
    calibration = Calibration(1.0, 0.0, WOBBLE**2)
    factors = np.exp([log_factors(rise, queries, calibration, LINE, 2) for rise in rises])
    error = factors.std(axis=0) / math.sqrt(len(rises))
    assert (factors.mean(axis=0) <= 1 + 4 * error).all()
    assert (factors.mean(axis=0) > 0.5).any()  # and it is no throwaway bound


def test_normal_windows_raise_false_alarms_less_often_than_the_bound() -> None:
    draw, line, queries = np.random.default_rng(0), 200.0, 200
    calibration = Calibration(1.0, 0.0, WOBBLE**2)
    alarms = 0
    logs: tuple[float, ...] = ()
    for _ in range(4000):
        rise = float(of_quantiles(draw.random(queries)).mean() - 1 + WOBBLE * draw.standard_normal())
        logs = add_window(logs, log_factors(rise, queries, calibration, line, 2), line)
        if total(logs) >= line:
            alarms, logs = alarms + 1, ()
    assert 0 < alarms <= 20


def test_an_uncertain_level_lowers_the_rise() -> None:
    measurement = Measurement(
        queries=1, low=0.05, raw_low=0.05, unseen=0.0, held_out=1, usual_unseen=0.0, unfamiliarity=1.2
    )
    certain, uncertain = (unexplained_rise(measurement, Calibration(1.0, error**2, 0.0)) for error in (0.01, 0.1))
    assert math.isclose(certain, 0.2)
    assert uncertain < 0.2 - 0.07


def test_evidence_is_limited_so_an_alarm_ends_with_its_drift() -> None:
    calibration = Calibration(1.0, 0.0, WOBBLE**2)
    logs: tuple[float, ...] = ()
    for _ in range(100):
        logs = add_window(logs, log_factors(1.0, 1000, calibration, LINE, 2), LINE)
    assert LINE <= total(logs) <= 1.001 * len(RISES) * LINE
    for _ in range(6):
        logs = add_window(logs, log_factors(0.0, 1000, calibration, LINE, 2), LINE)
    assert total(logs) < LINE


def test_more_windows_and_larger_windows_make_the_level_more_certain() -> None:
    few, many, large = (
        calibrate(1.0, 2000, [Mean(queries, 0.9)] * count, 0.0) for queries, count in ((200, 5), (200, 50), (5000, 50))
    )
    assert few.level > many.level > large.level > 0.9
    assert few.level_variance > many.level_variance > large.level_variance


def test_traffic_that_may_differ_from_held_out_queries_soon_sets_the_level() -> None:
    windows = [Mean(1000, 1.1)] * 2
    same, other = (calibrate(1.0, 2000, windows, mismatch) for mismatch in (0.0, 0.2))
    assert same.level < 1.06 < 1.09 < other.level
    first = calibrate(1.0, 2000, [], 0.2)
    assert first.level == 1
    assert first.level_variance > 0.04 > other.level_variance


def test_the_variation_between_windows_is_measured_without_chance() -> None:
    draw = np.random.default_rng(1)
    measured = []
    for wobble in (0.0, 0.1):
        means = 1 + draw.standard_normal(300) * math.sqrt(wobble**2 + VARIANCE / 2000)
        between = calibrate(1.0, 2000, [Mean(2000, float(mean)) for mean in means], 0.0).between
        measured.append(math.sqrt(between))
    assert measured[0] < 0.03  # the least variation
    assert 0.1 < measured[1] < 0.13  # with caution


def test_unfamiliarity_averages_one_in_the_reference_and_rises_below_the_level_of_the_topic() -> None:
    draw = np.random.default_rng(2)
    topics = draw.integers(0, 2, 4000)
    scores = (0.4 + 0.3 * topics + 0.05 * draw.standard_normal(4000)).astype(np.float32)
    reference = TopicScores.of(topics, scores, 2)
    later = (0.4 + 0.3 * topics + 0.05 * draw.standard_normal(4000)).astype(np.float32)
    assert abs(reference.unfamiliarity(topics, later).mean() - 1) < 0.05
    usual, unusual = reference.unfamiliarity(np.array([0, 1]), np.array([0.4, 0.4], np.float32))
    assert unusual > 5 * usual  # the same score is unusual for a topic that scores higher


def test_a_measurement_of_an_earlier_version_counts_as_usual() -> None:
    fields = {"queries": 1, "low": 0.05, "raw_low": 0.05, "unseen": 0.0, "held_out": 1, "usual_unseen": 0.0}
    assert Measurement.model_validate(fields).unfamiliarity == 1.0
