"""Which weights a training changes: all of them, adapters beside them, or those of the query encoder alone."""

from __future__ import annotations

from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.adapters import add_adapters
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec


def training_keys(settings: EncoderSettings) -> dict[str, Any]:
    """The encoder settings that decide what a training makes of the encoder that it starts from."""
    return settings.model_dump(exclude={"model", "query_model", "start"})


def spec_to_train(start: EncoderSpec, settings: EncoderSettings) -> EncoderSpec:
    """The spec that the settings ask for now, to go with the weights of an encoder of the spec `start`.

    Raises:
        NightshiftError: those weights are divided or projected otherwise than the settings say.
    """
    wanted = EncoderSpec.of(settings, start.precision)
    for name in ("shared", "dimension"):
        now, then = getattr(wanted, name), getattr(start, name)
        if now != then:
            raise NightshiftError(
                f"[encoder] {name} = {now}, but the encoder that training starts from was made with {then}: "
                'set start = "base" for one night'
            )
    return wanted


def make_trainable(encoder: DualEncoder, settings: EncoderSettings) -> None:
    """Let exactly those parameters require gradients that the settings want trained, in place.

    With `train = "query"` the passage tower is frozen. With `lora_rank` transformers are frozen but for adapters; a
    projection is trained beside them.

    Raises:
        NightshiftError: the encoder has fewer numbers than `dimensions`, none of the `lora_targets`, or peft is not
            installed.
    """
    width = encoder.passage.width
    if any(one > width for one in settings.dimensions):
        raise NightshiftError(
            f"[encoder] dimensions = {list(settings.dimensions)}: a vector of this encoder has {width} numbers. "
            "Give fewer."
        )
    if settings.train == "query":
        encoder.passage.requires_grad_(False)
    for tower in encoder.towers.values():
        if settings.lora_rank and tower.is_trained:
            add_adapters(tower.transformer, settings.lora_rank, settings.lora_targets)
