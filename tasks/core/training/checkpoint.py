"""Checkpoints in safetensors: weights, optimizer moments and the step; one at a time, replaced in one rename."""

from __future__ import annotations

import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks.core.files import sync_files


def save_checkpoint(folder: Path, step: int, model: nn.Module, optimizer: Optimizer, losses: list[float]) -> None:
    """Write `folder/step-NNNNNN`, then remove the older ones; a crash leaves the older one in place."""
    aside = folder / f".step-{step:06d}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(dict(_weights(model)), aside / "weights.safetensors")
    save_file(_moments(optimizer), aside / "moments.safetensors")
    (aside / "losses.txt").write_text("\n".join(map(repr, losses)))
    sync_files(aside)
    aside.rename(folder / f"step-{step:06d}")
    for old in sorted(folder.glob("step-*"))[:-1]:
        shutil.rmtree(old)


def load_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer) -> tuple[int, list[float]]:
    """Put the newest checkpoint back into model and optimizer; (0, []) when there is none.

    Returns the number of finished steps and the loss of each.
    """
    found = sorted(folder.glob("step-*"))
    if not found:
        return 0, []
    model.load_state_dict(load_file(found[-1] / "weights.safetensors"), strict=False)
    moments = load_file(found[-1] / "moments.safetensors")
    for number, parameter in enumerate(_parameters(optimizer)):
        optimizer.state[parameter] = {
            name: moments[f"{number}.{name}"]
            for name in ("step", "exp_avg", "exp_avg_sq")
            if f"{number}.{name}" in moments
        }
    losses = [float(line) for line in (found[-1] / "losses.txt").read_text().split()]
    return len(losses), losses


def _weights(model: nn.Module) -> list[tuple[str, Tensor]]:
    return [(name, parameter.detach().contiguous()) for name, parameter in model.named_parameters()]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(optimizer: Optimizer) -> dict[str, Tensor]:
    return {
        f"{number}.{name}": value.contiguous()
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
