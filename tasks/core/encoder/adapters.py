"""Low-rank adapters in a transformer, through peft: put in to train, merged into the weights to save."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from tasks.core.base.errors import NightshiftError


def add_adapters(transformer: nn.Module, rank: int, targets: Sequence[str]) -> None:
    """Freeze the transformer and put adapters of `rank` beside its linear layers, in place.

    A weight W counts as W + 2·B·A from then on, A of `rank` rows, B of as many columns and zero at first (Hu et al.
    2021, "LoRA: Low-Rank Adaptation of Large Language Models"). `targets` names the layers; none: all of them.

    Raises:
        NightshiftError: peft is not installed, or there is no layer of a name in `targets`.
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
        torch.manual_seed(0)  # a resumed training draws what the first one drew
        try:
            inject_adapter_in_model(config, transformer)
        except ValueError as error:
            raise NightshiftError(f"[encoder] lora_targets = {list(targets)}: {error}") from error


def merge_adapters(transformer: nn.Module) -> None:
    """Add the adapters to the weights that they stand beside and take them out, in place; nothing where none are."""
    for name, layer in list(transformer.named_modules()):
        if hasattr(layer, "get_base_layer"):
            layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(transformer.get_submodule(parent), child, layer.get_base_layer())
    if hasattr(transformer, "peft_config"):
        del transformer.peft_config
