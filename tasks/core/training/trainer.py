"""Contrastive training of a dual encoder: one loop, resumable at a checkpoint, the same weights for the same seed."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tasks.core.embedding.precision import choose_precision, has_bf16
from tasks.core.files import produce
from tasks.core.receipts import Encoder, Negatives, Snapshot
from tasks.core.settings import Settings, TrainingSettings
from tasks.core.training.base import find_bases
from tasks.core.training.batches import Batch, batch_at, steps_in
from tasks.core.training.checkpoint import load_checkpoint, save_checkpoint
from tasks.core.training.encoder import (
    DualEncoder,
    EncoderSpec,
    decisive_files,
    fingerprint,
    passage_fingerprint,
    read_spec,
    save_encoder,
    start_from,
)
from tasks.core.training.losses.infonce import infonce
from tasks.core.training.losses.relations import Relations
from tasks.core.training.pairs import TrainingPairs, load_pairs
from tasks.core.training.trainable import dials_of, make_trainable

log = logging.getLogger("nightshift.training")

TOKEN_BUDGET = 4096  # padded tokens of one forward chunk: what keeps activations small
REPORT_SECONDS = 10.0


def base_encoder(home: Path, snapshot: Snapshot, settings: Settings) -> Encoder:
    """The untrained encoder of the settings as an artifact: what a first night starts from and is compared with."""
    bases = find_bases(settings.encoder)
    files = {side: decisive_files(base) for side, base in bases._asdict().items()}
    spec = EncoderSpec.of(settings.encoder, "fp32")
    key = {"bases": files, "spec": spec.model_dump(), "embedding": _numeric(settings)}

    def build(folder: Path) -> Mapping[str, Any]:
        dimension = start_from(bases.passage, spec, folder, bases.query).dimension
        return _facts(folder, snapshot, settings, dimension=dimension, rows=0, steps=0, base=settings.encoder.model)

    return produce(home, Encoder, key, build)


def train(home: Path, start: Encoder, snapshot: Snapshot, negatives: Negatives, settings: Settings) -> Encoder:
    """Train `start` on the snapshot's training pairs and mined negatives with InfoNCE (AdamW, warm-up, linear decay).

    A killed training goes on from its newest checkpoint and ends with the weights of an undisturbed one.

    Raises:
        BadInput: the snapshot has no training pair.
    """
    key = {
        "start": start.fingerprint,
        "snapshot": snapshot.digest,
        "negatives": negatives.digest,
        "training": settings.training.model_dump(exclude={"checkpoint_every"}),
        "encoder": dials_of(settings.encoder),
        "embedding": _numeric(settings),
    }

    def build(folder: Path) -> Mapping[str, Any]:
        encoder = DualEncoder(start.path, read_spec(start.path))
        make_trainable(encoder, settings.encoder)
        data = load_pairs(snapshot, negatives, encoder)
        steps = steps_in(len(data.pairs), settings.training)
        losses = _loop(encoder, data, settings.training, steps, folder / "checkpoints")
        save_encoder(encoder, folder)
        shutil.rmtree(folder / "checkpoints")
        rows = steps * settings.training.batch_size
        facts = _facts(folder, snapshot, settings, encoder.dimension, rows=rows, steps=steps, base=start.base)
        return {**facts, "loss": tuple(losses), "parents": (start.digest, snapshot.digest, negatives.digest)}

    return produce(home, Encoder, key, build, resumable=True)


def _numeric(settings: Settings) -> dict[str, Any]:
    return settings.embedding.model_dump(include={"precision", "min_cosine"}) | {"bf16": has_bf16()}


def _facts(
    folder: Path, snapshot: Snapshot, settings: Settings, dimension: int, rows: int, steps: int, base: str
) -> dict[str, Any]:
    precision, fidelity = choose_precision(folder, snapshot, settings.embedding)
    return {
        "fingerprint": fingerprint(folder),
        "passage_fingerprint": passage_fingerprint(folder),
        "dimension": dimension,
        "rows": rows,
        "steps": steps,
        "base": base,
        "precision": precision,
        "fidelity": fidelity,
    }


def _loop(
    encoder: DualEncoder, data: TrainingPairs, settings: TrainingSettings, steps: int, checkpoints: Path
) -> list[float]:
    for tower in encoder.towers.values():
        tower.set_dropout(settings.dropout)
    model = nn.ModuleDict(dict(encoder.towers))
    model.to("cuda" if torch.cuda.is_available() else "cpu").train()
    optimizer = _optimizer(model, settings)
    done, losses = load_checkpoint(checkpoints, model, optimizer)
    if done:
        log.info("training goes on after step %d of %d", done, steps)
    progress = _progress(steps, done)
    for step in range(done, steps):
        torch.manual_seed(settings.seed * 1_000_003 + step)  # dropout depends on the step alone, also after a resume
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate(step, steps, settings.warmup)
        loss = _loss(encoder, data, batch_at(data, settings, step), settings)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        losses.append(loss.item())
        progress(step + 1, losses)
        if (step + 1) % settings.checkpoint_every == 0 and step + 1 < steps:
            save_checkpoint(checkpoints, step + 1, model, optimizer, losses)
    checkpoints.mkdir(exist_ok=True)
    return losses


def _loss(encoder: DualEncoder, data: TrainingPairs, batch: Batch, settings: TrainingSettings) -> torch.Tensor:
    device = encoder.query.device
    bf16 = settings.precision == "bf16" or (settings.precision == "auto" and has_bf16())
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
        queries = encoder.query([data.query_tokens[int(row)] for row in batch.queries], TOKEN_BUDGET)
        passages = encoder.passage([data.passage_tokens[int(row)] for row in batch.passages], TOKEN_BUDGET)
    targets = torch.arange(len(batch.queries), device=device)
    known = torch.from_numpy(batch.known).to(device)
    return infonce(queries, passages, Relations(targets, known, known), temperature=settings.temperature)


def _optimizer(model: nn.Module, settings: TrainingSettings) -> torch.optim.Optimizer:
    # Decay pulls on matrices only: on biases and norms it would change what they are for.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [one for one in parameters if one.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [one for one in parameters if one.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=settings.learning_rate, fused=True)


def _rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: a linear rise over the first `warmup` of the steps, then a linear fall to zero."""
    rise = max(1, round(warmup * steps))
    return (step + 1) / rise if step < rise else max(0.0, (steps - step) / max(1, steps - rise))


def _progress(steps: int, done: int) -> Callable[[int, list[float]], None]:
    start = last = time.monotonic()

    def report(step: int, losses: list[float]) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < REPORT_SECONDS and step < steps:
            return
        last = now
        left = (now - start) / (step - done) * (steps - step)
        recent = losses[-20:]
        log.info("step %d of %d, loss %.3f, %.0f s left", step, steps, sum(recent) / len(recent), left)

    return report
