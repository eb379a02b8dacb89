"""Is a model folder whole? Checks its files before anything is loaded from them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tasks.core.base.errors import NightshiftError

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt")
LFS_POINTER = b"version https://git-lfs"
# Files that hold a vocabulary. transformers invents a tokenizer of a few special tokens where a folder has none.
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "*.model", "*.spm", "*.tiktoken", "tekken.json")
BYTE_TOKENIZERS = ("ByT5Tokenizer", "CanineTokenizer", "PerceiverTokenizer")  # need no file: bytes or characters


def check_model_files(folder: Path) -> Path:
    """Return `folder` when its configuration, tokenizer, and safetensors weights are there and whole.

    Raises NightshiftError naming the file, what is wrong with it, and what to do.
    """
    _check_present(folder)
    for file in _weight_files(folder):
        _check_weights(file)
    check_vocabulary(folder)
    if "model_type" not in read_json_object(folder / "config.json"):
        raise NightshiftError(
            f"{folder / 'config.json'}: no model_type in it, so the kind of model is unknown. Copy the file again from "
            "the model."
        )
    return folder


def check_vocabulary(folder: Path) -> None:
    """Raises NightshiftError when the folder holds no tokenizer, or only the pointer to a file of it."""
    files = [file for pattern in VOCABULARIES for file in folder.glob(pattern)]
    if not files and _tokenizer_class(folder) not in BYTE_TOKENIZERS:
        raise NightshiftError(
            f"model {folder}: no tokenizer in it (none of {', '.join(VOCABULARIES)}). Without it every word would be "
            "unknown: copy the tokenizer's files of the model into the folder."
        )
    for file in files:
        _refuse_pointer(file)


def read_json_object(file: Path) -> dict[str, Any]:
    """The JSON object that a file of a model folder holds.

    Raises NightshiftError when it holds anything else.
    """
    value = _read_json(file)
    if not isinstance(value, dict):
        raise NightshiftError(f"{file}: not a JSON object. Copy the file again from the model.")
    return value


def read_json_list(file: Path) -> list[dict[str, Any]]:
    """The JSON list of objects that a file of a model folder holds.

    Raises NightshiftError when it holds anything else.
    """
    value = _read_json(file)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NightshiftError(f"{file}: not a JSON list of objects. Copy the file again from the model.")
    return value


def _read_json(file: Path) -> object:
    _refuse_pointer(file)
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise NightshiftError(f"{file}: not valid JSON ({error}). Copy the file again from the model.") from error


def _tokenizer_class(folder: Path) -> object:
    config = folder / "tokenizer_config.json"
    return read_json_object(config).get("tokenizer_class") if config.is_file() else None


def _check_present(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise NightshiftError(
            f"model {folder}: holds adapters (adapter_config.json) and no model. Merge them into their base model with "
            "peft (merge_and_unload, save_pretrained), and give that folder."
        )
    if not (folder / "config.json").is_file():
        raise NightshiftError(f"base model {folder}: no config.json in it. Give the folder that holds the model.")


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / WEIGHTS_INDEX).is_file():
        return list(_indexed(folder / WEIGHTS_INDEX))
    if others := sorted(file.name for file in folder.glob("*.safetensors")):
        raise NightshiftError(
            f"model {folder}: no {WEIGHTS} in it, only {', '.join(others[:3])}. Give a folder with the model's whole "
            "weights under that name."
        )
    pickled = sorted(file.name for pattern in PICKLED for file in folder.glob(pattern))
    held = f" (there is {', '.join(pickled[:3])})" if pickled else ""
    raise NightshiftError(
        f"base model {folder}: no .safetensors weights in it{held}. Pickled weights are never loaded: convert them "
        "first, where you trust them, with AutoModel.from_pretrained(FOLDER).save_pretrained(FOLDER)."
    )


def _indexed(index: Path) -> Iterator[Path]:
    """The files of weights that an index names."""
    names = read_json_object(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise NightshiftError(f"{index}: names no file of weights. Copy the file again from the model.")
    for name in sorted(set(map(str, names.values()))):
        if not (index.parent / name).is_file():
            raise NightshiftError(
                f"model {index.parent}: {name} is missing, one of the files of weights that {index.name} names. "
                "Copy it from the model."
            )
        yield index.parent / name


def _check_weights(file: Path) -> None:
    _refuse_pointer(file)
    try:
        with safe_open(file, framework="numpy"):
            pass
    except SafetensorError as error:
        raise NightshiftError(
            f"{file}: not a whole safetensors file of {file.stat().st_size:,} bytes ({error}). It is cut short or "
            "damaged: copy it again from the model."
        ) from error


def _refuse_pointer(file: Path) -> None:
    with file.open("rb") as opened:
        if opened.read(len(LFS_POINTER)) == LFS_POINTER:
            raise NightshiftError(
                f"{file}: a Git LFS pointer, not the file itself. Run git lfs pull in its repository, or copy the file "
                "from the model."
            )
