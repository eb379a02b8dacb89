"""Tasks around the encoder."""

from __future__ import annotations

from prefect import task

from tasks.core.base.files import find_artifact
from tasks.core.base.receipts import Encoder, Negatives, Release, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder import learnable
from tasks.core.training import trainer
from tasks.policy import OVER_THE_WIRE, STEP
from tasks.ray_training import train_on_ray


@task(name="base-encoder", task_run_name="base encoder {settings.encoder.model}", **OVER_THE_WIRE)
def base_encoder(settings: Settings, snapshot: Snapshot) -> Encoder:
    """The untrained encoder that the settings name."""
    return trainer.base_encoder(settings.home, snapshot, settings)


@task(name="check-learnable", task_run_name="check that {base.base} can learn from the texts", **STEP)
def check_learnable(base: Encoder, snapshot: Snapshot, *, will_train: bool) -> None:
    """Warn of unknown tokens; stop a night that would train on texts that the base model cannot tell apart."""
    learnable.check_learnable(base, snapshot, will_train=will_train)


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

    `dev` is BM25's run over the dev queries. Where the start is the serving encoder, or pairs are replayed, the
    serving release's snapshot, unless it is lost, shows what is forgotten.
    """
    recalls = settings.encoder.start == "serving" or settings.training.replay > 0
    older = find_artifact(settings.home, Snapshot, serving.snapshot) if serving is not None and recalls else None
    launch = train_on_ray if settings.training.launcher == "ray" else None
    return trainer.train(
        settings.home, start, snapshot, negatives, settings, candidates=dev, older=older, launch=launch
    )
