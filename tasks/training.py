"""Tasks that load and train encoders."""

from __future__ import annotations

import logging

from prefect import task

from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Encoder, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder import learnable
from tasks.core.report.history import past_nights
from tasks.core.training import route, trainer
from tasks.policy import OVER_THE_WIRE, STEP
from tasks.ray_training import train_on_ray

log = logging.getLogger("nightshift.training")


@task(name="base-encoder", task_run_name="base encoder {settings.encoder.model}", **OVER_THE_WIRE)
def base_encoder(settings: Settings, snapshot: Snapshot) -> Encoder:
    """Return the base encoder, without training, that `[encoder] model` names."""
    return trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)


@task(name="check-learnable", task_run_name="check that {base.base} can learn from the texts", **STEP)
def check_learnable(base: Encoder, snapshot: Snapshot, *, will_train: bool) -> None:
    """Warn about unknown tokens. Stop a night that would train on texts that look the same to the base model."""
    learnable.check_learnable(base, snapshot, will_train=will_train)


@task(name="choose-route", task_run_name="choose what to train", **STEP)
def choose_route(settings: Settings, serving: Release | None, recipe: str) -> route.RouteChoice:
    """Choose what to train and where to start, from earlier nights of the home; or follow the settings."""
    nights = past_nights(settings.home)
    if settings.encoder.train != "auto":
        return route.follow_settings(nights, settings.encoder)
    fresh = "no release serves yet" if serving is None else ""
    if serving is not None and serving.recipe != recipe:
        fresh = "the settings that shape an encoder changed"
    choice = route.choose_route(nights, settings.drift, fresh=fresh)
    log.info("Training route: %s (%s)", choice.route, choice.reason)
    return choice


@task(name="train", task_run_name="train, round {negatives.round}", **STEP)
def train(
    settings: Settings,
    start: Encoder,
    snapshot: Snapshot,
    negatives: Negatives,
    dev: Run | None = None,
    serving: Release | None = None,
) -> Encoder:
    """Train the start encoder on the night's pairs and negatives.

    If training starts from the serving encoder or replays pairs, the serving release's snapshot, if it still exists,
    is used to measure forgetting.

    Args:
        dev: BM25's run on the dev queries.
        serving: The serving release, if any.
    """
    measures_forgetting = settings.encoder.start == "serving" or settings.training.replay > 0
    older = (
        find_artifact(settings.home, Snapshot, serving.snapshot)
        if serving is not None and measures_forgetting
        else None
    )
    launch = train_on_ray if settings.training.launcher == "ray" else None
    return trainer.train(
        settings.home, start, snapshot, negatives, settings, candidates=dev, older=older, launch=launch
    )
