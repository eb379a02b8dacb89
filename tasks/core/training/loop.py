"""The training loop: steps, looks at dev queries, checkpoints, until the plan or the patience is at its end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from tasks.core.errors import NightshiftError
from tasks.core.receipts import Encoder, Negatives, Run, Snapshot
from tasks.core.settings import Settings
from tasks.core.training.batches import batch_at, plan, steps_in
from tasks.core.training.checkpoint import Progress, load_checkpoint, put_weights, save_checkpoint, trained_weights
from tasks.core.training.encoder import DualEncoder, read_spec, save_encoder
from tasks.core.training.losses.choose import loss_of, nested
from tasks.core.training.pairs import load_pairs
from tasks.core.training.ranks import Ranks
from tasks.core.training.settings import TrainingSettings
from tasks.core.training.step import add_gradients, numeric
from tasks.core.training.trainable import make_trainable, spec_to_train
from tasks.core.training.yardstick import Yardstick, yardstick

log = logging.getLogger("nightshift.training")

CHECKPOINTS = "checkpoints"
REPORT_SECONDS = 10.0


class Job(BaseModel):
    """All that a training process needs to know."""

    model_config = ConfigDict(frozen=True)

    folder: Path  # where checkpoints and the trained encoder go
    start: Encoder
    snapshot: Snapshot
    negatives: Negatives
    settings: Settings
    candidates: Run | None = None
    older: Snapshot | None = None


class Outcome(BaseModel):
    """What a training did. `kept` is the step whose weights were saved."""

    model_config = ConfigDict(frozen=True)

    steps: int
    kept: int
    dimension: int
    loss: tuple[float, ...]
    dev: tuple[tuple[int, float], ...]
    forgetting: tuple[float, float] | None


def run(job: Job, ranks: Ranks) -> Outcome:
    """Train, and write the encoder into the job's folder; every process of `ranks` calls this with the same job.

    Raises:
        BadInput: there is nothing to train on.
        NightshiftError: the loss is not a number any more, or a batch is too small for so many processes.
    """
    settings = job.settings.training
    if settings.batch_size < ranks.size:
        raise NightshiftError(f"[training] batch_size = {settings.batch_size} is less than {ranks.size} processes")
    encoder = DualEncoder(job.start.path, spec_to_train(read_spec(job.start.path), job.settings.encoder))
    make_trainable(encoder, job.settings.encoder)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.ModuleDict(dict(encoder.towers)).to(device)
    encoder.query.to(device)
    dev, frozen = _yardsticks(job, encoder)

    def look(at: Yardstick) -> float:
        return at.ndcg(encoder, ranks, numeric(settings, device))

    before = None if frozen is None else look(frozen)
    progress = _train(job, encoder, model, ranks, None if dev is None else lambda: look(dev))
    kept = _keep_best(model, progress)
    after = None if frozen is None else look(frozen)
    if ranks.leads:
        save_encoder(encoder, job.folder)
    return Outcome(
        steps=progress.steps,
        kept=kept,
        dimension=encoder.dimension,
        loss=tuple(progress.losses),
        dev=tuple(progress.dev),
        forgetting=None if before is None or after is None else (before, after),
    )


def _yardsticks(job: Job, encoder: DualEncoder) -> tuple[Yardstick | None, Yardstick | None]:
    """Dev queries to stop by, and held-out queries of the older snapshot that show what is forgotten."""
    settings, split = job.settings.training, job.settings.evaluation.split
    dev = yardstick(job.snapshot, "dev", encoder, settings, job.candidates) if settings.evaluate_every else None
    return dev, None if job.older is None else yardstick(job.older, split, encoder, settings)


def _train(
    job: Job, encoder: DualEncoder, model: nn.Module, ranks: Ranks, look: Callable[[], float] | None
) -> Progress:
    settings, folder = job.settings.training, job.folder / CHECKPOINTS
    data = load_pairs(job.snapshot, job.negatives, encoder, settings, job.older)
    steps = steps_in(data, settings)
    pairs = plan(data, settings, steps)
    loss = nested(loss_of(settings), job.settings.encoder.dimensions, normalize=encoder.spec.normalize)
    optimizer = _optimizer(model, settings)
    progress = load_checkpoint(folder, model, optimizer)
    if progress.steps:
        log.info("training goes on after step %d of %d", progress.steps, steps)
    elif look is not None:
        progress.dev.append((0, look()))
    report = _reporter(steps, progress.steps)
    _set_up(encoder, settings)
    while progress.steps < steps and not _tired(progress, settings):
        step = progress.steps
        torch.manual_seed(settings.seed * 1_000_003 + step * ranks.size + ranks.rank)  # dropout: of the step alone
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate(step, steps, settings.warmup)
        optimizer.zero_grad(set_to_none=True)
        value = add_gradients(encoder, data, batch_at(data, pairs[step], settings, step), loss, settings, ranks)
        if not math.isfinite(value):
            raise NightshiftError(f"the loss is {value} at step {step + 1}: lower [training] learning_rate")
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        progress.losses.append(value)
        done = progress.steps
        if look is not None and (done % settings.evaluate_every == 0 or done == steps):
            _remember(progress, model, look())
            _set_up(encoder, settings)
        report(progress)
        if done % settings.checkpoint_every == 0 and done < steps and ranks.leads:
            save_checkpoint(folder, model, optimizer, progress)
    return progress


def _set_up(encoder: DualEncoder, settings: TrainingSettings) -> None:
    for tower in (encoder.query, encoder.passage):
        tower.set_dropout(settings.dropout)
        tower.train()


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    # Decay pulls on matrices only: on biases and norms it would change what they are for.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise over the first `warmup` of the steps, then a linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def _remember(progress: Progress, model: nn.Module, ndcg: float) -> None:
    """Note a look at the dev queries, and keep the weights when none since the start was better."""
    if all(ndcg > value for step, value in progress.dev if step > 0):
        progress.best = trained_weights(model)
    progress.dev.append((progress.steps, ndcg))
    log.info("after step %d: dev nDCG@10 %.4f (%.4f at the start)", progress.steps, ndcg, progress.dev[0][1])


def _best_step(progress: Progress) -> int:
    return max((look for look in progress.dev if look[0] > 0), key=lambda look: look[1])[0]  # of equal ones the first


def _tired(progress: Progress, settings: TrainingSettings) -> bool:
    """Whether the last `patience` looks brought nothing."""
    if progress.best is None:
        return False
    waited = sum(step > _best_step(progress) for step, _ in progress.dev)
    return waited >= settings.patience


def _keep_best(model: nn.Module, progress: Progress) -> int:
    """Put the best weights back, where dev queries were looked at; the step they are of."""
    if progress.best is None:
        return progress.steps
    kept = _best_step(progress)
    if kept != progress.steps:
        put_weights(model, progress.best)
        log.info("the weights of step %d were the best on dev queries", kept)
    return kept


def _reporter(steps: int, done: int) -> Callable[[Progress], None]:
    start = last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now, step = time.monotonic(), progress.steps
        if now - last < REPORT_SECONDS and step < steps:
            return
        last = now
        left = (now - start) / (step - done) * (steps - step)
        recent = progress.losses[-20:]
        log.info("step %d of %d, loss %.3f, %.0f s left", step, steps, sum(recent) / len(recent), left)

    return report
