"""Tasks that load and train encoders."""

from __future__ import annotations

import logging

from prefect import task

from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Encoder, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder import learnable
from tasks.core.report.history import past_nights
from tasks.core.training import route, trainer, trials
from tasks.core.training.budget import Recipe
from tasks.core.training.pace import plan_within_budget
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


@task(name="plan-training", task_run_name="plan {settings.training.minutes} minutes of training", **STEP)
def plan_training(settings: Settings, base: Encoder, snapshot: Snapshot, serving: Encoder | None) -> Recipe:
    """Choose steps, rounds, and start for `[training] minutes`."""
    recipe = plan_within_budget(settings.home, base, snapshot, settings, serving)
    log.info("Training plan: %s", recipe.describe())
    return recipe


@task(name="try-recipes", task_run_name="try recipes in {recipe.trial_steps} steps", **STEP)
def try_recipes(
    settings: Settings, recipe: Recipe, start: Encoder, snapshot: Snapshot, negatives: Negatives, dev: Run | None
) -> Recipe:
    """Choose learning rate and negatives of the recipe by short trainings."""
    return trials.try_recipes(settings.home, recipe, start, snapshot, negatives, settings, dev)


@task(name="choose-route", task_run_name="choose what to train", **STEP)
def choose_route(
    settings: Settings, serving: Release | None, recipe: str, serving_gain: float | None
) -> route.RouteChoice:
    """Choose what to train and where to start, from earlier nights of the home; or follow the settings.

    Args:
        serving_gain: What the serving release gains over the base model tonight, in nDCG@10; None: not measured.
    """
    nights = past_nights(settings.home)
    if settings.encoder.train != "auto":
        return route.follow_settings(nights, settings.encoder)
    fresh = "no release serves yet" if serving is None else ""
    if serving is not None and serving.recipe != recipe:
        fresh = "the settings that shape an encoder changed"
    choice = route.choose_route(nights, settings.drift, serving_gain, fresh=fresh)
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

    If training starts from the serving encoder, replays pairs, or merges weights, the serving release's snapshot, if it
    still exists, is used to measure forgetting.

    Args:
        dev: BM25's run on the dev queries.
        serving: The serving release, if any.
    """
    merges = settings.training.merge != "none"
    measures_forgetting = settings.encoder.start == "serving" or settings.training.replay > 0 or merges
    older = (
        find_artifact(settings.home, Snapshot, serving.snapshot)
        if serving is not None and measures_forgetting
        else None
    )
    launch = train_on_ray if settings.training.launcher == "ray" else None
    return trainer.train(
        settings.home,
        start,
        snapshot,
        negatives,
        settings,
        candidates=dev,
        older=older,
        merge_with=_merge_with(settings, snapshot, serving) if merges else None,
        launch=launch,
    )


def _merge_with(settings: Settings, snapshot: Snapshot, serving: Release | None) -> dict[str, Encoder]:
    """Return the encoders that a trained encoder may be merged with, by name."""
    base = trainer.base_encoder(settings.home, snapshot, settings.encoder, settings.embedding)
    current = None if serving is None else find_artifact(settings.home, Encoder, serving.encoder)
    return {"the base model": base} | ({} if current is None else {"the serving encoder": current})
