"""Make encoder artifacts: the untrained encoder of the settings, and encoders trained on a snapshot.

We use our own loop (`loop.py`) instead of transformers.Trainer for two reasons. Its checkpoints are pickles written in
place, so a kill can leave half a checkpoint. Its data parallelism reduces gradients in every backward pass, not once
per step.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import find_by_key, produce
from tasks.core.base.receipts import Embeddings, Encoder, Negatives, Run, Snapshot
from tasks.core.base.sections.embedding import EmbeddingSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings, Settings
from tasks.core.encoder.base_model import Bases, adopt_settings, find_bases
from tasks.core.encoder.dual_encoder import (
    EncoderSpec,
    decisive_files,
    fingerprint,
    passage_fingerprint,
    read_spec,
    start_from,
)
from tasks.core.encoder.prompt_room import check_prompt_room
from tasks.core.training.launch import run_job
from tasks.core.training.loop import CHECKPOINTS, Job, Outcome
from tasks.core.training.numeric_path import Choice, choose_precision, keep_precision, paths_tried
from tasks.core.training.stored_trunk import embed_trunk
from tasks.core.training.trainable import training_keys

VERSION = 2  # raise it when training gives another result for the same inputs; this retrains every encoder


class ResolvedBases(NamedTuple):
    """Folders of the base models, and `[encoder]` with the values that these models were trained with."""

    bases: Bases
    settings: EncoderSettings


def base_encoder(home: Path, snapshot: Snapshot, encoder: EncoderSettings, embedding: EmbeddingSettings) -> Encoder:
    """Make the untrained encoder of the settings: the start and the baseline of the first night.

    Raises:
        NightshiftError: files of the base model are missing, it is not supported, or a prompt leaves
            no room for the text.
    """
    bases, encoder = resolve_bases(home, encoder, embedding, report=True)
    spec = EncoderSpec.of(encoder, "fp32")

    def build(folder: Path) -> Mapping[str, Any]:
        made = start_from(bases.passage, spec, folder, bases.query)
        check_prompt_room(made)
        return {
            "dimension": made.dimension,
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
    return resolve_bases(home, encoder, embedding).bases


def resolve_bases(
    home: Path, encoder: EncoderSettings, embedding: EmbeddingSettings, *, report: bool = False
) -> ResolvedBases:
    """Find the base models of the settings, and fill in the settings that they were trained with.

    A home that already started from these models with exactly these settings continues with them.

    report: log which values come from a model.

    Raises:
        NightshiftError: files of a base model are missing, or it is not supported.
    """
    bases = find_bases(encoder)
    if find_by_key(home, Encoder, _base_key(bases, EncoderSpec.of(encoder, "fp32"), embedding)) is not None:
        return ResolvedBases(bases, encoder)
    return ResolvedBases(bases, adopt_settings(bases, encoder, report=report))


def resolve_settings(home: Path, settings: Settings) -> Settings:
    """Return the settings with the `[encoder]` settings that the base models were trained with; see `resolve_bases`."""
    resolved = resolve_bases(home, settings.encoder, settings.embedding).settings
    return settings.model_copy(update={"encoder": resolved})


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
    merge_with: Mapping[str, Encoder] | None = None,
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
        merge_with: name → encoder to merge the trained weights with, in addition to `start`, if `[training] merge` is
            "dev"; "half" merges with `start` alone.
        launch: runs the job elsewhere; None runs it here in `[training] processes`.

    Returns:
        Receipt of the trained encoder.

    Raises:
        BadInput: the snapshot has no training pair, or the loss needs teacher scores and there are none.
        NightshiftError: the loss is not finite, a training process failed, or `[training] minutes` is not yet a recipe
            (`budget.py`).
    """
    if settings.training.minutes:
        raise NightshiftError(
            "[training] minutes is a budget of a whole night, with its rounds. To train here, set epochs or max_steps"
        )
    settings = resolve_settings(home, settings)
    older = None if older is None or older.digest == snapshot.digest else older
    parents = [receipt.digest for receipt in (start, snapshot, negatives, candidates, older) if receipt is not None]
    partners = _partners(start, merge_with or {}, settings.training)
    key = training_key(start, snapshot, negatives, settings, candidates, older)
    if partners:
        key["merge_with"] = {name: other.fingerprint for name, other in partners.items()}

    def build(folder: Path) -> Mapping[str, Any]:
        job = Job(
            folder=folder.absolute(),
            start=start,
            snapshot=snapshot,
            negatives=negatives,
            settings=settings,
            candidates=candidates,
            older=older,
            merge_with=partners,
            trunk=trunk_vectors(settings, start, snapshot, older),
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


def _partners(start: Encoder, others: Mapping[str, Encoder], settings: TrainingSettings) -> dict[str, Encoder]:
    """Return the encoders to merge with, each fingerprint once: `others`, and `start` if it is none of them."""
    if settings.merge == "none":
        return {}
    if settings.merge == "half":
        return {"the start": start}
    named = {**others, "the start": start}
    first = {encoder.fingerprint: name for name, encoder in reversed(named.items())}
    return {name: named[name] for name in named if first[named[name].fingerprint] == name}


def training_key(
    start: Encoder,
    snapshot: Snapshot,
    negatives: Negatives,
    settings: Settings,
    candidates: Run | None,
    older: Snapshot | None = None,
) -> dict[str, object]:
    """Return everything that determines the result of a training."""
    return {
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
        **({"trunk_vectors": settings.embedding.vectors} if settings.encoder.train == "query+map" else {}),
    }


def trunk_vectors(
    settings: Settings, start: Encoder, snapshot: Snapshot, older: Snapshot | None
) -> tuple[Embeddings, ...]:
    """Return the vectors of the frozen trunk for the passages to train on; none unless only a map is trained."""
    if settings.encoder.train != "query+map":
        return ()
    snapshots = [of_night for of_night in (snapshot, older) if of_night is not None]
    return embed_trunk(start, snapshots, settings.embedding)


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
