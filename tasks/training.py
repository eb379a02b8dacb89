"""Tasks around the encoder."""

from __future__ import annotations

from prefect import task

from tasks.core.receipts import Encoder, Negatives, Snapshot
from tasks.core.settings import Settings
from tasks.core.training import trainer
from tasks.policy import OVER_THE_WIRE, STEP


@task(name="base-encoder", task_run_name="base encoder {settings.encoder.model}", **OVER_THE_WIRE)
def base_encoder(settings: Settings, snapshot: Snapshot) -> Encoder:
    """The untrained encoder that the settings name."""
    return trainer.base_encoder(settings.home, snapshot, settings)


@task(name="train", task_run_name="train, round {negatives.round}", **STEP)
def train(settings: Settings, start: Encoder, snapshot: Snapshot, negatives: Negatives) -> Encoder:
    """Train the start encoder on the night's pairs and negatives."""
    return trainer.train(settings.home, start, snapshot, negatives, settings)
