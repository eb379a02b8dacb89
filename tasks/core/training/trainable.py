"""Select the weights to train: all weights, adapters only, or the query encoder only."""

from __future__ import annotations

from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.adapters import add_adapters
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec


def training_keys(settings: EncoderSettings) -> dict[str, Any]:
    """Return the encoder settings that affect training from a given start encoder."""
    return settings.model_dump(exclude={"model", "query_model", "start"})


def spec_to_train(start: EncoderSpec, settings: EncoderSettings) -> EncoderSpec:
    """Return the encoder spec of the current settings, for training from an encoder with the spec `start`.

    Raises:
        NightshiftError: `shared` or `dimension` differ, so the start encoder's weights do not fit.
    """
    wanted = EncoderSpec.of(settings, start.precision)
    for name in ("shared", "dimension"):
        current, before = getattr(wanted, name), getattr(start, name)
        if current != before:
            raise NightshiftError(
                f"[encoder] {name} = {current}, but the encoder that training starts from was made with {before}: "
                'set start = "base" for one night'
            )
    return wanted


def make_trainable(encoder: DualEncoder, settings: EncoderSettings) -> None:
    """Set `requires_grad` on exactly the parameters that the settings train, in place.

    `train = "query"` freezes the passage tower. `lora_rank` freezes the transformers and adds adapters; a projection
    is still trained.

    Raises:
        NightshiftError: a value of `dimensions` is larger than the encoder's vectors, none of the `lora_targets`
            exists, or peft is not installed.
    """
    width = encoder.passage.width
    if any(dimension > width for dimension in settings.dimensions):
        raise NightshiftError(
            f"[encoder] dimensions = {list(settings.dimensions)}: the vectors of this encoder have {width} numbers. "
            "Give smaller dimensions."
        )
    if settings.train == "query":
        encoder.passage.requires_grad_(False)
    for tower in encoder.towers.values():
        if settings.lora_rank and tower.is_trained:
            add_adapters(tower.transformer, settings.lora_rank, settings.lora_targets)
