"""Checks at the start of a night, for files that it reads hours later."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.errors import BadInput
from tasks.core.base.sections.mining import CrossEncoderSettings, MiningSettings
from tasks.core.base.sections.training import TrainingSettings
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.base_model import find_base
from tasks.core.retrieval.jvm import anserini_jar, find_java


def check_side_files(golden: Path | None, encoder: EncoderSettings, cross_encoder: CrossEncoderSettings) -> None:
    """Check what a night needs in addition to its data: Java, golden queries, local model folders.

    Models on a hub are not checked, so a night with nothing to do makes no requests to the hub.

    Args:
        golden: file of golden queries, if any.
        encoder: names the base models.
        cross_encoder: names the model that checks negatives.

    Raises:
        BadInput: the golden queries cannot be used.
        NightshiftError: Java or a local model is missing.
    """
    find_java()
    anserini_jar()
    if golden is not None:
        from tasks.core.evaluation.golden import read_golden  # imports the retrievers

        read_golden(golden)
    for model in filter(_is_local, (encoder.model, encoder.query_model)):
        find_base(model)
    if _is_local(cross_encoder.model):
        from tasks.core.mining.cross_encoder import find_cross_encoder  # imports torch

        find_cross_encoder(cross_encoder)


def check_teacher_settings(mining: MiningSettings, training: TrainingSettings) -> None:
    """Check that a loss that learns from a teacher has one, and that a local teacher model exists.

    Raises:
        BadInput: the loss needs a teacher, and the settings name none.
        NightshiftError: the folder of the teacher model cannot be used.
    """
    teacher = mining.teacher
    if training.distills and teacher.source == "none":
        raise BadInput(
            f'[training] loss = "{training.loss}" learns from a teacher. Set [mining.teacher] source = "blend", or '
            "another loss."
        )
    if teacher.source == "encoder" and _is_local(teacher.model):
        find_base(teacher.model)


def _is_local(model: str) -> bool:
    return bool(model) and (Path(model).is_absolute() or Path(model).is_dir())
