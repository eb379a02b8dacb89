"""Which weights a training changes: all of them, adapters beside them, or those of the query encoder alone."""

from __future__ import annotations

from typing import Any

from tasks.core.errors import NightshiftError
from tasks.core.settings import EncoderSettings
from tasks.core.training.adapters import add_adapters
from tasks.core.training.encoder import DualEncoder


def dials_of(settings: EncoderSettings) -> dict[str, Any]:
    """The encoder settings that decide how a training changes it."""
    return settings.model_dump(include={"train", "lora_rank", "lora_targets", "dimensions"})


def make_trainable(encoder: DualEncoder, settings: EncoderSettings) -> None:
    """Let exactly those parameters require gradients that the settings want trained, in place.

    With `train = "query"` the passage tower is frozen. With `lora_rank` transformers are frozen but for adapters; a
    projection is trained beside them.

    Raises:
        NightshiftError: the encoder has no passage weights of its own to freeze, fewer numbers than `dimensions`,
            none of the `lora_targets`, or peft is not installed.
    """
    width = encoder.passage.width
    if any(one > width for one in settings.dimensions):
        raise NightshiftError(
            f"[encoder] dimensions = {list(settings.dimensions)}: a vector of this encoder has {width} numbers"
        )
    if settings.train == "query":
        if encoder.spec.shared:
            raise NightshiftError(
                '[encoder] train = "query": the encoder to start from has one set of weights for both sides. '
                'Start from a base model (start = "base", shared = false) once.'
            )
        encoder.passage.requires_grad_(False)
    for tower in encoder.towers.values():
        if settings.lora_rank and tower.is_trained:
            add_adapters(tower.transformer, settings.lora_rank, settings.lora_targets)
