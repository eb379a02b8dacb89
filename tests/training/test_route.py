"""The rule that chooses how a night trains, on made-up histories."""

from __future__ import annotations

import pytest

from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.training.route import (
    PastNight,
    Route,
    RouteChoice,
    choose_route,
    follow_settings,
    sections_of,
)

SETTINGS = DriftSettings(derived_margin=0.01, derived_nights=4)
SCRATCH = PastNight(Route.SCRATCH, promoted=True, gain=0.05, seconds=400.0)


def night(route: Route, gain: float | None = 0.05, seconds: float = 40.0, *, promoted: bool = True) -> PastNight:
    return PastNight(route, promoted, gain, seconds)


def choose(*nights: PastNight, serving_gain: float | None = None, fresh: str = "") -> RouteChoice:
    return choose_route(nights, SETTINGS, serving_gain, fresh=fresh)


def test_a_home_without_a_full_training_starts_from_the_base_model() -> None:
    for nights in ((), (night(Route.SCRATCH, None, promoted=False),), (night(Route.QUERY),)):
        assert choose(*nights).route is Route.SCRATCH


def test_the_serving_encoder_is_not_continued_after_a_change_of_settings() -> None:
    choice = choose(SCRATCH, night(Route.MAP), fresh="the settings changed")
    assert (choice.route, choice.reason) == (Route.SCRATCH, "the settings changed")


def test_the_map_comes_first_and_once_both_derived_routes_are_measured_the_cheaper_is_taken() -> None:
    assert choose(SCRATCH).route is Route.MAP
    assert choose(SCRATCH, night(Route.MAP, seconds=40)).route is Route.MAP
    measured = (SCRATCH, night(Route.MAP, seconds=40), night(Route.QUERY, seconds=60))
    choice = choose(*measured)
    assert choice.route is Route.MAP
    assert "40 s" in choice.reason
    assert "400 s" in choice.reason
    assert (choice.full_seconds, choice.full_gain) == (400.0, 0.05)
    assert choose(*measured, night(Route.MAP, seconds=100)).route is Route.QUERY  # 70 s on average


def test_the_cost_is_that_of_the_last_three_nights_of_a_route() -> None:
    costs = [night(Route.MAP, seconds=seconds) for seconds in (300, 30, 30, 30)]
    assert choose_route([SCRATCH, *costs, night(Route.QUERY, seconds=50)], DriftSettings()).route is Route.MAP


@pytest.mark.parametrize("failed", [night(Route.MAP, promoted=False), night(Route.MAP, None, promoted=False)])
def test_a_rejected_route_is_left_out_until_the_next_full_training(failed: PastNight) -> None:
    assert choose(SCRATCH, failed).route is Route.QUERY
    query = night(Route.QUERY, promoted=False)
    assert choose(SCRATCH, failed, query).route is Route.WARM
    warm = night(Route.WARM, seconds=400)
    assert choose(SCRATCH, failed, query, warm).route in (Route.MAP, Route.QUERY)


def test_a_full_training_is_forced_when_the_serving_release_falls_behind_by_more_than_the_margin() -> None:
    assert not choose(SCRATCH, night(Route.MAP, 0.041), serving_gain=0.041).route.full
    choice = choose(SCRATCH, night(Route.MAP, 0.041), serving_gain=0.039)
    assert choice.route is Route.WARM
    assert "+0.0390" in choice.reason
    assert choose(SCRATCH, serving_gain=0.03).route is Route.WARM  # refreshes alone since the full training
    rejected = night(Route.QUERY, 0.03, promoted=False)
    assert not choose(SCRATCH, night(Route.MAP, 0.05), rejected, serving_gain=0.05).route.full


def test_a_full_training_is_forced_after_a_number_of_derived_trainings() -> None:
    derived = [night(Route.MAP)] * SETTINGS.derived_nights
    assert not choose(SCRATCH, *derived[:-1]).route.full
    choice = choose(SCRATCH, *derived)
    assert (choice.route, choice.reason) == (Route.WARM, "4 derived trainings since the last full training")
    assert not choose(SCRATCH, *derived, night(Route.WARM, seconds=400)).route.full


def test_a_rejected_full_training_is_not_repeated_the_next_night() -> None:
    derived = [night(Route.MAP)] * SETTINGS.derived_nights
    rejected = night(Route.WARM, 0.049, 400, promoted=False)
    assert not choose(SCRATCH, *derived, rejected).route.full


def test_a_derived_training_that_saves_little_is_not_worth_its_loss() -> None:
    cheap = SCRATCH._replace(seconds=45.0)
    nights = (cheap, night(Route.MAP, seconds=40), night(Route.QUERY, seconds=44))
    assert choose(*nights).route is Route.WARM
    assert not choose(cheap, night(Route.MAP, seconds=30), night(Route.QUERY, seconds=44)).route.full


@pytest.mark.parametrize(
    ("warm", "route"),
    [
        (night(Route.WARM, 0.045), Route.WARM),
        (night(Route.WARM, 0.035), Route.SCRATCH),
        (night(Route.WARM, 0.05, promoted=False), Route.SCRATCH),
    ],
)
def test_a_full_training_starts_from_the_base_model_where_the_last_warm_start_was_worse(
    warm: PastNight, route: Route
) -> None:
    derived = [night(Route.MAP, 0.06)] * SETTINGS.derived_nights
    assert choose(SCRATCH, warm, *derived).route is route


def test_the_settings_of_a_route_have_its_start_and_its_trained_parts() -> None:
    auto = EncoderSettings(train="auto", shared=False, map_rank=8, query_tokens=32)
    expected = {
        Route.SCRATCH: ("both", "base", 0.0, 1, "none", 0),
        Route.WARM: ("both", "serving", 0.3, 1, "half", 0),
        Route.QUERY: ("query", "serving", 0.0, 1, "half", 0),
        Route.MAP: ("query+map", "serving", 0.0, 7, "half", 8),
    }
    for route, values in expected.items():
        sections = sections_of(route, auto, TrainingSettings(epochs=3))
        encoder = EncoderSettings.model_validate(sections["encoder"].model_dump())  # workers validate them again
        training = TrainingSettings.model_validate(sections["training"].model_dump())
        assert (encoder.train, encoder.start) == values[:2]
        assert (training.replay, training.hard_negatives, training.merge, encoder.map_rank) == values[2:]
        assert training.epochs == 3
        assert encoder.query_tokens == 32


@pytest.mark.parametrize(
    ("encoder", "route"),
    [
        (EncoderSettings(), Route.SCRATCH),
        (EncoderSettings(start="serving"), Route.WARM),
        (EncoderSettings(shared=False, train="query"), Route.QUERY),
        (EncoderSettings(shared=False, train="query+map"), Route.MAP),
    ],
)
def test_without_auto_the_settings_decide(encoder: EncoderSettings, route: Route) -> None:
    nights = (SCRATCH, night(Route.MAP, 0.01))
    assert follow_settings(nights, encoder) == RouteChoice(route=route, full_seconds=400.0, full_gain=0.05)
    assert follow_settings((), encoder) == RouteChoice(route=route)
    assert sections_of(route, encoder, TrainingSettings()) == {}
