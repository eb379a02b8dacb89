"""Select the weights to train: all weights, adapters only, the query encoder only, or also a map of the passages."""

from __future__ import annotations

from typing import Any

from tasks.core.base.errors import NightshiftError
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.adapters import add_adapters
from tasks.core.encoder.dual_encoder import DualEncoder, EncoderSpec
from tasks.core.encoder.passage_map import map_to_train


def training_keys(settings: EncoderSettings) -> dict[str, Any]:
    """Return the encoder settings that affect training from a given start encoder."""
    left_out = ("model", "query_model", "start")
    return {name: value for name, value in settings.recipe().items() if name not in left_out}


def spec_to_train(start: EncoderSpec, settings: EncoderSettings) -> EncoderSpec:
    """Return the encoder spec of the current settings, for training from an encoder with the spec `start`.

    Raises:
        NightshiftError: `shared` or `dimension` differ, so the start encoder's weights do not fit; or the passage map
            is trained, and the settings change the trunk that it maps.
    """
    wanted = EncoderSpec.of(settings, start.precision)
    for name in ("shared", "dimension"):
        current, before = getattr(wanted, name), getattr(start, name)
        if current != before:
            raise NightshiftError(
                f"[encoder] {name} = {current}, but the encoder that training starts from was made with {before}: "
                'set start = "base" for one night'
            )
    if settings.train == "query+map" and wanted.side("passage") != start.side("passage"):
        raise NightshiftError(
            '[encoder] train = "query+map" keeps the vectors of the passage encoder that training starts from, but the '
            'settings change its pooling, prompt, token limit, or normalization: set start = "base" for one night'
        )
    return wanted


def make_trainable(encoder: DualEncoder, settings: EncoderSettings) -> None:
    """Set `requires_grad` on exactly the parameters that the settings train, in place.

    `train = "query"` freezes the passage tower. `train = "query+map"` freezes its trunk and trains its map, which
    starts as the map of the encoder or as the identity. `lora_rank` freezes the transformers and adds adapters; a
    projection is still trained.

    Raises:
        NightshiftError: a value of `dimensions` is larger than the encoder's vectors, none of the `lora_targets`
            exists, peft is not installed, or the map has another number of hidden units than `map_hidden`.
    """
    width = encoder.passage.width
    if any(dimension > width for dimension in settings.dimensions):
        raise NightshiftError(
            f"[encoder] dimensions = {list(settings.dimensions)}: the vectors of this encoder have {width} numbers. "
            "Give smaller dimensions."
        )
    if settings.train != "both":
        encoder.passage.requires_grad_(False)
    if settings.train == "query+map":
        encoder.passage.passage_map = map_to_train(
            encoder.passage.passage_map,
            width,
            rank=settings.map_rank,
            hidden=settings.map_hidden,
        )
    for tower in encoder.towers.values():
        if settings.lora_rank and tower.is_trained:
            add_adapters(tower.transformer, settings.lora_rank, settings.lora_targets)
