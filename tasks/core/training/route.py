"""Choose how tonight's encoder is trained: with all weights, or with the query encoder and stored passage vectors.

A training of all weights changes the vector of every passage, so the night encodes the whole corpus. A derived training
keeps the passage encoder. Its quality falls behind as the corpus moves away from what the passage encoder has seen. The
choice weighs both by what earlier nights of the home measured: seconds of training and embedding, and the gain in
nDCG@10 over the base model, which a night that trains evaluates on the same held-out queries as its challenger and the
serving release.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from statistics import fmean
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from tasks.core.base.section import Section
from tasks.core.base.sections.drift import DriftSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings

WARM_REPLAY = 0.3  # least share of a batch from pairs of the serving release, in a training from its encoder
MAP_NEGATIVES = 7  # least mined negatives per positive in a training of a map: their vectors are stored
NIGHTS = 3  # latest nights of a route whose cost is averaged
WORTH = 0.8  # largest cost of a derived training, as a share of the last full training


class Route(StrEnum):
    """What a training trains, and where it starts."""

    SCRATCH = "scratch"  # all weights, from the base model
    WARM = "warm"  # all weights, from the serving encoder, with replay
    QUERY = "query"  # the query encoder, from the serving encoder; the passages keep their vectors
    MAP = "query+map"  # the query encoder and a map of the passage vectors, from the serving encoder

    @property
    def full(self) -> bool:
        """Whether all passages are encoded again."""
        return self in (Route.SCRATCH, Route.WARM)


DERIVED = (Route.MAP, Route.QUERY)  # in the order in which they are tried


class PastNight(NamedTuple):
    """The figures of an earlier night that trained."""

    route: Route
    promoted: bool
    gain: float | None  # nDCG@10 of its challenger minus that of the base model; None: rejected before its evaluation
    seconds: float = 0.0  # of training, and of embedding the passages with the trained encoder


class RouteChoice(BaseModel):
    """The route of a night, and why."""

    model_config = ConfigDict(frozen=True)

    route: Route
    reason: str = ""  # empty: the settings name the route
    full_seconds: float | None = None  # of the last full training; None: not measured yet
    full_gain: float | None = None


def follow_settings(nights: Sequence[PastNight], settings: EncoderSettings) -> RouteChoice:
    """Return the route that the settings set, for a `train` other than "auto"."""
    full = _last_full(nights)
    route = Route.WARM if settings.start == "serving" else Route.SCRATCH
    if settings.train in DERIVED:
        route = Route(settings.train)
    return RouteChoice(route=route, full_seconds=full and full.seconds, full_gain=full and full.gain)


def sections_of(route: Route, encoder: EncoderSettings, training: TrainingSettings) -> dict[str, Section]:
    """Return the sections, by name, that a training on the chosen route changes; none unless `train` is "auto"."""
    if encoder.train != "auto":
        return {}
    changed = {"train": "both" if route.full else str(route), "start": "base" if route is Route.SCRATCH else "serving"}
    no_map = {} if route is Route.MAP else {"map_rank": 0, "map_hidden": 0}
    more: dict[str, object] = {}
    if route is not Route.SCRATCH and training.merge == "none":
        more["merge"] = "half"  # most of a gain stays, and little of a loss
    if route is Route.WARM:
        more["replay"] = max(training.replay, WARM_REPLAY)
    elif route is Route.MAP and training.hard_negatives > 0:
        more["hard_negatives"] = max(training.hard_negatives, MAP_NEGATIVES)
    return {
        "encoder": encoder.model_copy(update=changed | no_map),
        "training": training.model_copy(update=more),
    }


def choose_route(
    nights: Sequence[PastNight], settings: DriftSettings, serving_gain: float | None = None, *, fresh: str = ""
) -> RouteChoice:
    """Choose the cheapest route that is good enough.

    - Cheapest: the lowest mean seconds of the last three nights of a route. A derived route that this home has not
      measured is tried only if no measured route is good enough, query+map before query, which usually gains less. A
      route that costs more than 80 % of the last full training is not worth its loss.
    - Good enough: since the last full training, the last night of the route was promoted, and its gain was at most
      `derived_margin` less than that of the full training. A route without a night since then is good enough.
    - Forced: a full training starts if the serving release has fallen behind the last full training by more than
      `derived_margin`, or after `derived_nights` derived trainings.
    - A full training continues from the serving encoder (warm). It starts from the base model if the last warm training
      was rejected, or gained `derived_margin` less than the last training from scratch.

    Args:
        nights: earlier nights of this home, in order.
        settings: margin and maximum number of derived trainings.
        serving_gain: what the serving release gains over the base model tonight; None: not measured.
        fresh: why only a training from the base model is possible; empty if the serving encoder can be continued.
    """
    full = _last_full(nights)
    if fresh or full is None or full.gain is None:
        return RouteChoice(route=Route.SCRATCH, reason=fresh or "no full training was evaluated in this home")
    since = nights[max(number for number, night in enumerate(nights) if night.route.full) + 1 :]
    forced = _reason_for_full(full.gain, serving_gain, since, settings)
    usable = [route for route in DERIVED if not forced and _is_usable(route, nights, since, full, settings)]
    if usable:
        route = min(usable, key=lambda route: (not _cost(route, nights), _cost(route, nights)))
        reason = _describe(route, nights, full)
    else:
        route = _choose_full(nights, settings)
        reason = forced or "no derived training is good enough and clearly cheaper than a full training"
    return RouteChoice(route=route, reason=reason, full_seconds=full.seconds, full_gain=full.gain)


def _last(nights: Sequence[PastNight], matches: Callable[[PastNight], bool]) -> PastNight | None:
    return next((night for night in reversed(nights) if matches(night)), None)


def _last_full(nights: Sequence[PastNight]) -> PastNight | None:
    """Return the last full training that was evaluated."""
    return _last(nights, lambda night: night.route.full and night.gain is not None)


def _cost(route: Route, nights: Sequence[PastNight]) -> float:
    """Return the mean seconds of the last nights of a route; 0 without any."""
    seconds = [night.seconds for night in nights if night.route is route][-NIGHTS:]
    return fmean(seconds) if seconds else 0.0


def _is_behind(gain: float | None, reference: float, settings: DriftSettings) -> bool:
    return gain is None or gain < reference - settings.derived_margin


def _reason_for_full(
    full_gain: float, serving_gain: float | None, since: Sequence[PastNight], settings: DriftSettings
) -> str:
    """Return why a full training is forced, given the nights since the last; empty if it is not."""
    if serving_gain is not None and _is_behind(serving_gain, full_gain, settings):
        return (
            f"the serving release gains {serving_gain:+.4f} nDCG@10 over the base model, more than "
            f"{settings.derived_margin} less than after the last full training ({full_gain:+.4f})"
        )
    derived = sum(night.promoted and night.route in DERIVED for night in since)
    if derived >= settings.derived_nights:
        return f"{derived} derived training{'s' * (derived > 1)} since the last full training"
    return ""


def _is_usable(
    route: Route, nights: Sequence[PastNight], since: Sequence[PastNight], full: PastNight, settings: DriftSettings
) -> bool:
    assert full.gain is not None
    last = _last(since, lambda night: night.route is route)
    failed = last is not None and (not last.promoted or _is_behind(last.gain, full.gain, settings))
    return not failed and _cost(route, nights) <= WORTH * full.seconds


def _describe(route: Route, nights: Sequence[PastNight], full: PastNight) -> str:
    cost = _cost(route, nights)
    if not cost:
        return f"the home has not measured {route} yet, and no vector of a passage is encoded again"
    return f"{route} took {cost:,.0f} s on average, the last full training {full.seconds:,.0f} s"


def _choose_full(nights: Sequence[PastNight], settings: DriftSettings) -> Route:
    warm = _last(nights, lambda night: night.route is Route.WARM)
    scratch = _last(nights, lambda night: night.route is Route.SCRATCH)
    if warm is None:
        return Route.WARM
    behind = scratch is not None and scratch.gain is not None and _is_behind(warm.gain, scratch.gain, settings)
    return Route.SCRATCH if behind or not warm.promoted else Route.WARM
