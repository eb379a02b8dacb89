"""Make encoder artifacts: the untrained encoder of the settings, and encoders trained on a snapshot.

We use our own loop (`loop.py`) instead of transformers.Trainer for two reasons. Its checkpoints are pickles written in
place, so a kill can leave half a checkpoint. Its data parallelism reduces gradients in every backward pass, not once
per step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tasks.core.base.files import find_by_key, produce
from tasks.core.base.receipts import Encoder, Negatives, Run, Snapshot
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder.base_model import Bases, check_bases, find_bases
from tasks.core.encoder.dual_encoder import (
    EncoderSpec,
    decisive_files,
    fingerprint,
    passage_fingerprint,
    read_spec,
    start_from,
)
from tasks.core.training.launch import run_job
from tasks.core.training.loop import CHECKPOINTS, Job, Outcome
from tasks.core.training.numeric_path import Choice, choose_precision, keep_precision, paths_tried
from tasks.core.training.stored_trunk import embed_trunk
from tasks.core.training.trainable import training_keys

VERSION = 2  # raise it when training gives another result for the same inputs; this retrains every encoder


def base_encoder(home: Path, snapshot: Snapshot, encoder: EncoderSettings, embedding: EmbeddingSettings) -> Encoder:
    """Make the untrained encoder of the settings: the start and the baseline of the first night.

    Raises:
        NightshiftError: files of the base model are missing, or the settings contradict how the model makes vectors.
    """
    bases = find_bases(encoder)
    spec = EncoderSpec.of(encoder, "fp32")

    def build(folder: Path) -> Mapping[str, Any]:
        check_bases(bases, encoder)
        dimension = start_from(bases.passage, spec, folder, bases.query).dimension
        return {
            "dimension": dimension,
            "rows": 0,
            "steps": 0,
            "base": encoder.model,
            **_facts(folder, snapshot, embedding),
        }

    return produce(home, Encoder, _base_key(bases, spec, embedding), build)


def check_base(home: Path, encoder: EncoderSettings, embedding: EmbeddingSettings) -> Bases:
    """Find the base models of the settings, and check that a night can start from them.

    Models that this home already started from are not checked again.

    Raises:
        NightshiftError: as `base_encoder`.
    """
    bases = find_bases(encoder)
    key = _base_key(bases, EncoderSpec.of(encoder, "fp32"), embedding)
    if find_by_key(home, Encoder, key) is None:
        check_bases(bases, encoder)
    return bases


def _base_key(bases: Bases, spec: EncoderSpec, settings: EmbeddingSettings) -> dict[str, object]:
    files = {side: decisive_files(base) for side, base in bases._asdict().items()}
    return {"bases": files, "spec": spec.model_dump(), "embedding": _numeric(settings)}


def train(
    home: Path,
    start: Encoder,
    snapshot: Snapshot,
    negatives: Negatives,
    settings: Settings,
    *,
    candidates: Run | None = None,
    older: Snapshot | None = None,
    launch: Callable[[Job], Outcome] | None = None,
) -> Encoder:
    """Train an encoder on the snapshot's training pairs and mined negatives (AdamW, warm-up, linear decay).

    A killed training resumes from its newest checkpoint and ends with the same weights as an uninterrupted one. If the
    snapshot has dev queries, training stops early when nDCG@10 on them stops rising, and keeps the best weights.

    Args:
        home: folder of the artifacts.
        start: encoder to start from.
        snapshot: training pairs, passages, and dev queries.
        negatives: mined negatives of the snapshot.
        settings: all settings; `[training]`, `[encoder]`, and `[embedding]` decide the result.
        candidates: run over the dev queries; its best passages make the dev evaluation harder.
        older: snapshot of the serving release. Its pairs are replayed (`[training] replay`), and its held-out queries
            measure forgetting.
        launch: runs the job elsewhere; None runs it here in `[training] processes`.

    Returns:
        Receipt of the trained encoder.

    Raises:
        BadInput: the snapshot has no training pair, or the loss needs teacher scores and there are none.
        NightshiftError: the loss is not finite, or a training process failed.
    """
    has_map = settings.encoder.train == "query+map"
    older = None if older is None or older.digest == snapshot.digest else older
    parents = [receipt.digest for receipt in (start, snapshot, negatives, candidates, older) if receipt is not None]
    key = {
        "start": start.fingerprint,
        "snapshot": snapshot.digest,
        "negatives": negatives.digest,
        "candidates": None if candidates is None else candidates.digest,
        "older": None if older is None else older.digest,
        "training": settings.training.recipe(),
        "encoder": training_keys(settings.encoder),
        "evaluation": settings.evaluation.split,
        "embedding": _numeric(settings.embedding),
        "version": VERSION,
        **({"leave_out_self": True} if settings.evaluation.leave_out_self else {}),
        **({"trunk_vectors": settings.embedding.vectors} if has_map else {}),
    }

    def build(folder: Path) -> Mapping[str, Any]:
        job = Job(
            folder=folder.absolute(),
            start=start,
            snapshot=snapshot,
            negatives=negatives,
            settings=settings,
            candidates=candidates,
            older=older,
            trunk=embed_trunk(start, [s for s in (snapshot, older) if s is not None], settings.embedding)
            if has_map
            else (),
        )
        outcome = run_job(job, processes_of(settings.training)) if launch is None else launch(job)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return {
            "rows": outcome.steps * settings.training.batch_size,
            "base": start.base,
            "parents": tuple(parents),
            **outcome.model_dump(),
            **_facts(folder, snapshot, settings.embedding, start if settings.encoder.train != "both" else None),
        }

    return produce(home, Encoder, key, build, resumable=True)


def processes_of(settings: TrainingSettings) -> int:
    """Return the number of training processes: `[training] processes`, else one per GPU, else 1."""
    return settings.processes or max(1, torch.cuda.device_count())


def _numeric(settings: EmbeddingSettings) -> dict[str, Any]:
    return settings.numeric() | {"paths": paths_tried(settings)}


def _facts(
    folder: Path, snapshot: Snapshot, settings: EmbeddingSettings, kept: Encoder | None = None
) -> dict[str, Any]:
    """Return what a receipt records of the encoder in `folder`. The vectors of its trunk must stay those of `kept`."""
    choice = _numeric_path(folder, snapshot, settings, kept)
    passages, trunk = passage_fingerprint(folder), passage_fingerprint(folder, with_map=False)
    return {
        "fingerprint": fingerprint(folder),
        "passage_fingerprint": passages,
        "trunk": "" if trunk == passages else trunk,
        "precision": choice.precision,
        "fidelity": choice.fidelity,
        "ndcg_change": choice.ndcg_change,
    }


def _numeric_path(folder: Path, snapshot: Snapshot, settings: EmbeddingSettings, kept: Encoder | None) -> Choice:
    if kept is None:
        return choose_precision(folder, snapshot, settings)
    if settings.precision not in ("auto", "fastest"):
        return choose_precision(folder, snapshot, settings, kept=kept.path)
    path = read_spec(kept.path).precision  # another path would need new vectors for all passages
    keep_precision(folder, snapshot, kept.path, path)
    return Choice(path, kept.fidelity, kept.ndcg_change)
