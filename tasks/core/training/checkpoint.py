"""Checkpoints in safetensors: trained weights, optimizer moments, and progress. Each is made with one rename."""

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
    """Progress of a training.

    losses: loss of each finished step.
    dev: (finished steps, mean nDCG@10) of each dev evaluation.
    best: weights of the best dev evaluation after step 0, in main memory; None before the first.
    start: nDCG@10 of each dev query at step 0.
    below: steps whose nDCG@10 was significantly lower than at step 0.
    late: weights of late steps, in main memory, for their average.
    """

    losses: list[float] = field(default_factory=list)
    dev: list[tuple[int, float]] = field(default_factory=list)
    best: Weights | None = None
    start: list[float] = field(default_factory=list)
    below: list[int] = field(default_factory=list)
    late: list[Weights] = field(default_factory=list)

    @property
    def steps(self) -> int:
        """Number of finished steps."""
        return len(self.losses)


def save_checkpoint(folder: Path, model: nn.Module, optimizer: Optimizer, progress: Progress) -> None:
    """Write `folder/step-NNNNNN`, then delete older checkpoints. A crash leaves the older checkpoint intact."""
    target = _checkpoint_folder(folder, progress.steps)
    partial = target.with_name(f".{target.name}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(trained_weights(model), partial / "weights.safetensors")
    save_file(_moments(optimizer), partial / "moments.safetensors")
    if progress.best is not None:
        save_file(progress.best, partial / "best.safetensors")
    for number, weights in enumerate(progress.late):
        save_file(weights, partial / f"late-{number}.safetensors")
    kept = {name: getattr(progress, name) for name in ("losses", "dev", "start", "below")}
    (partial / "progress.json").write_text(json.dumps(kept))
    sync_files(partial)
    partial.rename(target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def _checkpoint_folder(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint; 0 if there is none."""
    return max((int(checkpoint.name.removeprefix("step-")) for checkpoint in folder.glob("step-*")), default=0)


def load_checkpoint(folder: Path, step: int, model: nn.Module, optimizer: Optimizer) -> Progress:
    """Load the checkpoint of this step into model and optimizer; step 0 loads nothing.

    Returns:
        The progress at that step.

    Raises:
        Damaged: the checkpoint cannot be read.
    """
    if step == 0:
        return Progress()
    try:
        return _load(_checkpoint_folder(folder, step), model, optimizer)
    except (SafetensorError, ValueError, LookupError, TypeError) as error:
        raise Damaged(
            f"{_checkpoint_folder(folder, step)}: cannot be read ({error}). Remove it; training then starts again"
        ) from error


def _load(checkpoint: Path, model: nn.Module, optimizer: Optimizer) -> Progress:
    put_weights(model, load_file(checkpoint / "weights.safetensors"))
    moments = load_file(checkpoint / "moments.safetensors")
    for number, parameter in enumerate(_parameters(optimizer)):
        kept = {name: moments.get(f"{number}.{name}") for name in ("step", "exp_avg", "exp_avg_sq")}
        optimizer.state[parameter] = {
            name: value.to(parameter.device) for name, value in kept.items() if value is not None
        }
    read = json.loads((checkpoint / "progress.json").read_text())
    best = checkpoint / "best.safetensors"
    dev = [(int(step), float(value)) for step, value in read["dev"]]
    weights = load_file(best) if best.exists() else None
    late = [load_file(file) for file in sorted(checkpoint.glob("late-*.safetensors"))]
    return Progress(read["losses"], dev, weights, read.get("start", []), read.get("below", []), late)


def trained_weights(model: nn.Module) -> Weights:
    """Copy the weights that training changes to main memory, by name."""
    return {
        name: parameter.detach().cpu().contiguous().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def put_weights(model: nn.Module, weights: Weights) -> None:
    """Set the weights with these names; leave all others unchanged."""
    model.load_state_dict(weights, strict=False)


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _moments(optimizer: Optimizer) -> Weights:
    return {
        f"{number}.{name}": value.cpu().contiguous()
        for number, parameter in enumerate(_parameters(optimizer))
        for name, value in optimizer.state.get(parameter, {}).items()
    }
