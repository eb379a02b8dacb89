"""Checkpoints in safetensors: trained weights, optimizer moments, progress; one at a time, replaced in one rename."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from tasks.core.base.errors import Damaged
from tasks.core.base.files import sync_files

Weights = dict[str, Tensor]


@dataclass
class Progress:
    """How far a training has come.

    losses: one a finished step. dev: (finished steps, mean nDCG@10) of each evaluation on dev queries. best: the
    weights of the best evaluation after step 0, in main memory; None before it. start: nDCG@10 of each dev query at
    step 0. below: steps at which nDCG@10 was lower than at step 0 by more than chance.
    """

    losses: list[float] = field(default_factory=list)
    dev: list[tuple[int, float]] = field(default_factory=list)
    best: Weights | None = None
    start: list[float] = field(default_factory=list)
    below: list[int] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Finished steps."""
        return len(self.losses)


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write `folder/step-NNNNNN`, then remove the older ones; a crash leaves the older one in place."""
    target = _place(folder, progress.steps)
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    save_file(trained_weights(model), aside / "weights.safetensors")
    save_file(_moments(optimizer), aside / "moments.safetensors")
    if progress.best is not None:
        save_file(progress.best, aside / "best.safetensors")
    kept = {name: getattr(progress, name) for name in ("losses", "dev", "start", "below")}
    (aside / "progress.json").write_text(json.dumps(kept))
    sync_files(aside)
    aside.rename(target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def _place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def newest_step(folder: Path) -> int:
    """The step of the newest checkpoint; 0 when there is none."""
    return max((int(found.name.removeprefix("step-")) for found in folder.glob("step-*")), default=0)


def load_checkpoint(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> Progress:
    """Put the checkpoint of this step back into model and optimizer; no progress for step 0.

    Raises Damaged when it cannot be read.
    """
    if step == 0:
        return Progress()
    try:
        return _load(_place(folder, step), model, optimizer)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise Damaged(
            f"{_place(folder, step)}: cannot be read ({error}); remove it, and training starts again"
        ) from error


def _load(kept_at: Path, model: nn.Module, optimizer: Optimizer) -> Progress:
    put_weights(model, load_file(kept_at / "weights.safetensors"))
    moments = load_file(kept_at / "moments.safetensors")
    for number, parameter in enumerate(_parameters(optimizer)):
        kept = {name: moments.get(f"{number}.{name}") for name in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {
            name: value.to(parameter.device) for name, value in kept.items() if value is not None
        }
    read = json.loads((kept_at / "progress.json").read_text())
    best = kept_at / "best.safetensors"
    dev = [(int(step), float(value)) for step, value in read["dev"]]
    weights = load_file(best) if best.exists() else None
    return Progress(read["losses"], dev, weights, read.get("start", []), read.get("below", []))


def trained_weights(model: nn.Module) -> Weights:
    """A copy, in main memory, of the weights that training changes, by name."""
    return {
        name: parameter.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_weights(model: nn.Module, weights: Weights) -> None:
    """Set the weights of these names, and no others."""
    model.load_state_dict(weights, strict=False)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(optimizer: Optimizer) -> Weights:
    return {
        f"{number}.{name}": value.cpu().contiguous()
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
