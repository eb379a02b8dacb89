"""Low-rank adapters (LoRA, through peft): added to a transformer for training, merged into its weights for saving."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tasks.core.base.errors import NightshiftError


def add_adapters(transformer: nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Freeze the transformer and add adapters of rank `rank` to its linear layers, in place.

    A weight W then acts as W + 2·B·A. A has `rank` rows, B has `rank` columns and starts at zero (Hu et al. 2021,
    "LoRA: Low-Rank Adaptation of Large Language Models").

    targets: names of the layers to adapt; empty: all linear layers.

    Raises:
        NightshiftError: peft is not installed, or no layer has a name in `targets`.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise NightshiftError(
            f"[encoder] lora_rank = {rank} needs peft ({error}): install the lora extra, pip install 'nightshift[lora]'"
        ) from error
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(targets) or "all-linear",
        exclude_modules=[name for name, _ in transformer.named_modules() if name.startswith("pooler.")] or None,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # a resumed training starts from the same random adapters
        try:
            inject_adapter_in_model(config, transformer)
        except ValueError as error:
            raise NightshiftError(f"[encoder] lora_targets = {list(targets)}: {error}") from error


def merge_adapters(transformer: nn.Module) -> None:
    """Merge the adapters into the weights and remove them, in place. Do nothing if there are none."""
    for name, layer in list(transformer.named_modules()):
        if hasattr(layer, "get_base_layer"):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(transformer.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config


def adapted_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights that the adapters of `model` change, as they will be after `merge_adapters`, by name there."""
    return {
        f"{name}.weight": layer.get_base_layer().weight + layer.get_delta_weight("default")
        for name, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
