"""What a night checks before it works for hours: the files that it reads late."""

from __future__ import annotations

from pathlib import Path

from tasks.core.base.settings import Settings
from tasks.core.encoder.base_model import find_base
from tasks.core.evaluation.golden import read_golden
from tasks.core.mining.cross_encoder import find_cross_encoder
from tasks.core.retrieval.jvm import anserini_jar, find_java


def check_side_files(settings: Settings) -> None:
    """Look at what the night needs besides its data: Java, golden queries, model folders of this machine.

    Models of the hub are left for the steps that need them: a night with nothing to do asks no hub.

    Raises BadInput for golden queries that cannot be used, NightshiftError for anything else that is missing.
    """
    find_java()
    anserini_jar()
    if settings.gate.golden is not None:
        read_golden(settings.gate.golden)
    for model in filter(_is_here, (settings.encoder.model, settings.encoder.query_model)):
        find_base(model)
    if _is_here(settings.mining.cross_encoder.model):
        find_cross_encoder(settings.mining.cross_encoder)


def _is_here(model: str) -> bool:
    return bool(model) and (Path(model).is_absolute() or Path(model).is_dir())
