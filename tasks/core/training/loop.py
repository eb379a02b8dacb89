"""The training loop: steps, dev evaluations, and checkpoints, until the last planned step or an early stop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict
from torch import nn

from tasks.core.base.errors import NightshiftError
from tasks.core.base.merge import TRAINED, Merge
from tasks.core.base.progress import report_progress
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Run, Snapshot
from tasks.core.base.settings import Settings
from tasks.core.encoder.dual_encoder import DualEncoder, read_spec, save_encoder
from tasks.core.snapshot.splits import Split
from tasks.core.training.batches import batch_at, plan, steps_in
from tasks.core.training.checkpoint import (
    Progress,
    load_checkpoint,
    newest_step,
    put_weights,
    save_checkpoint,
    trained_weights,
)
from tasks.core.training.dev_decisions import is_finished, record_start, record_step, step_to_keep
from tasks.core.training.dev_evaluation import DevEvaluation, dev_evaluation
from tasks.core.training.merge_choice import MIN_QUERIES, late_steps, merge_halfway, merge_weights
from tasks.core.training.pairs import TrainingPairs, check_negatives, load_pairs, without_refused_teacher
from tasks.core.training.ranks import Ranks
from tasks.core.training.step import Stepper, make_autocast
from tasks.core.training.stored_trunk import StoredTrunk, load_trunk
from tasks.core.training.trainable import make_trainable, spec_to_train

log = logging.getLogger("nightshift.training")

CHECKPOINTS = "checkpoints"
REPORT_SECONDS = 10.0


class Job(BaseModel):
    """Inputs of a training process."""

    model_config = ConfigDict(frozen=True)

    folder: Path  # receives checkpoints and the trained encoder
    start: Encoder
    snapshot: Snapshot
    negatives: Negatives
    settings: Settings
    candidates: Run | None = None
    older: Snapshot | None = None
    trunk: tuple[Embeddings, ...] = ()  # vectors of the frozen trunk, if only a map of the passages is trained
    merge_with: dict[str, Encoder] = {}  # name → encoder to merge the trained weights with


class Outcome(BaseModel):
    """Result of a training.

    steps: number of steps taken.
    kept: step whose weights were saved.
    improved: false if every later step was worse on dev queries than step 0; the weights of step 0 were saved.
    loss: loss of each step. dev: (step, mean nDCG@10) of each dev evaluation.
    forgetting: nDCG@10 on the older snapshot's held-out queries before and after training; None if not measured.
    merge: which weights were chosen on dev queries; None: `[training] merge` is "none".
    """

    model_config = ConfigDict(frozen=True)

    steps: int
    kept: int
    improved: bool
    dimension: int
    loss: tuple[float, ...]
    dev: tuple[tuple[int, float], ...]
    forgetting: tuple[float, float] | None
    merge: Merge | None = None


def run(job: Job, ranks: Ranks) -> Outcome:
    """Train, and write the encoder to the job's folder. Every process of `ranks` calls this with the same job.

    Raises:
        BadInput: there is nothing to train on.
        NightshiftError: the loss is not finite, or the batch has fewer pairs than there are processes.
    """
    settings = without_refused_teacher(job.settings.training, job.negatives)
    if settings.batch_size < ranks.size:
        raise NightshiftError(
            f"[training] batch_size = {settings.batch_size} is smaller than the number of processes ({ranks.size}): "
            "raise it, or set fewer processes"
        )
    spec = spec_to_train(read_spec(job.start.path), job.settings.encoder)
    encoder = DualEncoder(job.start.path, spec)
    make_trainable(encoder, job.settings.encoder)
    data = load_pairs(
        job.snapshot,
        job.negatives,
        encoder,
        settings,
        job.older,
        leave_out_self=job.settings.evaluation.leave_out_self,
        stored_vectors=bool(job.trunk),
    )
    check_negatives(data, settings)
    stored = _stored_trunk(job, data, encoder)
    stepper = Stepper(encoder, settings, steps_in(data, settings), ranks, job.settings.encoder.dimensions, stored)

    def prepare(evaluation: DevEvaluation) -> DevEvaluation:
        if stored is None:
            return evaluation
        return evaluation.with_frozen_trunk(encoder, ranks, make_autocast(settings, stepper.device))

    dev, older_evaluation = (evaluation and prepare(evaluation) for evaluation in _dev_evaluations(job, encoder))

    def evaluate(evaluation: DevEvaluation) -> np.ndarray:
        return evaluation.ndcg(encoder, ranks, make_autocast(settings, stepper.device))

    before = None if older_evaluation is None else float(evaluate(older_evaluation).mean())
    progress = _train(job, data, stepper, None if dev is None else lambda: evaluate(dev))
    kept = step_to_keep(progress)
    if kept > 0:
        _restore_best(stepper.model, progress, kept)
    after = before if older_evaluation is None or kept == 0 else float(evaluate(older_evaluation).mean())
    merge = None
    if settings.merge != "none" and kept > 0:
        merge = _merge(job, encoder, stepper.model, progress, prepare, evaluate)
        if older_evaluation is not None and merge.kept != TRAINED:
            merge, after = merge.model_copy(update={"forgetting": after}), float(evaluate(older_evaluation).mean())
    if ranks.leads:
        save_encoder(encoder if kept > 0 else DualEncoder(job.start.path, spec), job.folder)
    return Outcome(
        steps=progress.steps,
        kept=kept,
        improved=kept > 0,
        dimension=encoder.dimension,
        loss=tuple(progress.losses),
        dev=tuple(progress.dev),
        forgetting=None if before is None or after is None else (before, after),
        merge=merge,
    )


def _stored_trunk(job: Job, data: TrainingPairs, encoder: DualEncoder) -> StoredTrunk | None:
    if not job.trunk or encoder.passage.passage_map is None:
        return None
    return StoredTrunk(encoder.passage.passage_map, load_trunk(job.trunk, data.hashes))


def _dev_evaluations(job: Job, encoder: DualEncoder) -> tuple[DevEvaluation | None, DevEvaluation | None]:
    """Return the dev evaluation for early stopping, and the one on the older snapshot that measures forgetting."""
    settings, held_out = job.settings.training, job.settings.evaluation
    dev, older_evaluation, leave_out_self = None, None, held_out.leave_out_self
    if settings.evaluate_every:
        dev = dev_evaluation(job.snapshot, Split.DEV, encoder, settings, job.candidates, leave_out_self=leave_out_self)
    if job.older is not None:
        older_evaluation = dev_evaluation(job.older, held_out.split, encoder, settings, leave_out_self=leave_out_self)
    return dev, older_evaluation


def _train(job: Job, data: TrainingPairs, stepper: Stepper, evaluate: Callable[[], np.ndarray] | None) -> Progress:
    settings, folder = stepper.settings, job.folder / CHECKPOINTS
    pairs = plan(data, settings, stepper.steps)
    late = late_steps(stepper.steps) if settings.merge == "dev" else frozenset[int]()
    newest = stepper.ranks.broadcast(newest_step(folder))
    progress = load_checkpoint(folder, newest, stepper.model, stepper.optimizer)
    if progress.steps:
        log.info("Resuming training after step %d of %d", progress.steps, stepper.steps)
    elif evaluate is not None:
        record_start(progress, evaluate())
    report = _reporter(stepper.steps, progress.steps)
    while progress.steps < stepper.steps and not is_finished(progress, settings.patience):
        step = progress.steps
        progress.losses.append(stepper.step(data, batch_at(data, pairs[step], settings, step), step))
        done = step + 1
        if done in late:
            progress.late.append(trained_weights(stepper.model))
        if evaluate is not None and (done % settings.evaluate_every == 0 or done == stepper.steps):
            record_step(progress, evaluate(), lambda: trained_weights(stepper.model))
        report(progress)
        if done % settings.checkpoint_every == 0 and done < stepper.steps and stepper.ranks.leads:
            save_checkpoint(folder, stepper.model, stepper.optimizer, progress)
    if settings.merge == "dev" and stepper.ranks.leads and newest_step(folder) < progress.steps:
        save_checkpoint(folder, stepper.model, stepper.optimizer, progress)  # a killed merge repeats no step
    return progress


def _merge(
    job: Job,
    encoder: DualEncoder,
    model: nn.Module,
    progress: Progress,
    prepare: Callable[[DevEvaluation], DevEvaluation],
    evaluate: Callable[[DevEvaluation], np.ndarray],
) -> Merge:
    """Merge halfway, or choose weights on more dev queries than early stopping uses, and put them into the model."""
    if job.settings.training.merge == "half":
        return merge_halfway(encoder, model, job.merge_with)
    settings, leave_out_self = job.settings.training, job.settings.evaluation.leave_out_self
    more = max(1.0, settings.merge_queries / settings.dev_queries)
    sizes = {name: round(more * getattr(settings, name)) for name in ("dev_queries", "dev_passages")}
    larger = settings.model_copy(update=sizes)
    dev = dev_evaluation(job.snapshot, Split.DEV, encoder, larger, job.candidates, leave_out_self=leave_out_self)
    if dev is None or len(dev.query_ids) < MIN_QUERIES:
        return Merge(kept=TRAINED, why=f"fewer than {MIN_QUERIES} dev queries are too few to choose weights")
    prepared = prepare(dev)
    return merge_weights(encoder, model, job.merge_with, progress.late, lambda: evaluate(prepared))


def _restore_best(model: nn.Module, progress: Progress, step: int) -> None:
    if progress.best is not None and step != progress.steps:
        put_weights(model, progress.best)


def _reporter(steps: int, done: int) -> Callable[[Progress], None]:
    start = last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now, step = time.monotonic(), progress.steps
        report_progress("train", step, steps)
        if now - last < REPORT_SECONDS and step < steps:
            return
        last = now
        left = (now - start) / (step - done) * (steps - step)
        recent = progress.losses[-20:]
        log.info("step %d of %d, loss %.3f, %.0f s left", step, steps, sum(recent) / len(recent), left)

    return report
